"""The processor: prompts, placeholders, pixels; and the made world's words for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys
from PIL import Image
from transformers import AutoProcessor

from eramv_lab.data.pixels import Pixels
from eramv_lab.data.processor import image_processor, world_processor, world_tokenizer
from eramv_lab.data.world.vocabulary import ANSWER, BOS, IDS, IMAGE, WORDS, encode
from eramv_lab.errors import UserError
from eramv_lab.model import EramvProcessor, build_model

QUESTION = "what digit is left of the red circle"
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def picture(seed: int, *size: int) -> Image.Image:
    shape = (*(size or (32, 32)), 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def processor(template: str = "plain", order: str = "question_first", **section: Any) -> Any:
    prompt = {"type": order, "template": template}
    made = world_processor(spec_of(with_keys(TINY, prompt=prompt, **section)))
    if template == "chat":
        made.tokenizer.chat_template = CHAT
    return made


def word_tokenizer() -> Any:
    """A tokenizer that takes every word, without `<image>`, and has a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "why"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT,
    )


def chatting() -> Any:
    spec = spec_of(with_keys(TINY, prompt={"type": "image_first", "template": "chat"}))
    return EramvProcessor.for_spec(spec, image_processor(Pixels(size=32)), word_tokenizer())


# --- words


def test_the_worlds_words_have_the_datas_ids():
    words = world_tokenizer()
    assert len(words) == len(WORDS)
    assert words.convert_tokens_to_ids(list(WORDS)) == list(IDS.values())
    assert words(QUESTION)["input_ids"] == [IDS[BOS], *encode(QUESTION)]
    assert words.decode(encode(QUESTION)) == QUESTION
    assert words.decode([IDS[BOS], *encode("red"), 2], skip_special_tokens=True) == "red"
    with pytest.raises(Exception, match=r"no such word|UNK"):
        words("what colour is the aubergine")


@pytest.mark.parametrize(
    ("order", "template", "images", "expected"),
    [
        ("question_first", "plain", 1, f"Q {IMAGE} answer"),
        ("image_first", "plain", 1, f"{IMAGE} Q answer"),
        ("question_first", "plain", 0, "Q answer"),
        ("image_first", "plain", 2, f"{IMAGE} {IMAGE} Q answer"),
        ("question_first", "vicuna", 1, f"USER: Q\n{IMAGE} ASSISTANT:"),
        ("image_first", "vicuna", 1, f"USER: {IMAGE}\nQ ASSISTANT:"),
        ("image_first", "vicuna", 0, "USER: Q ASSISTANT:"),
        ("question_first", "chat", 1, f"<bos>[user] Q\n{IMAGE} [assistant]"),
        ("image_first", "chat", 2, f"<bos>[user] {IMAGE} {IMAGE}\nQ [assistant]"),
    ],
)
def test_prompts(order: str, template: str, images: int, expected: str):
    text = processor(template, order).write("Q", images)
    assert text.endswith(expected)
    assert template == "vicuna" or text == expected


@pytest.mark.parametrize("order", ["question_first", "image_first"])
@pytest.mark.parametrize("template", ["plain", "vicuna", "chat"])
def test_an_answer_stands_behind_its_prompt_as_the_data_writes_it(order: str, template: str):
    made, history = processor(template, order), [("a", "b")]
    written = made.write("Q", 2, history, answer="red one ")
    assert written == made.write("Q", 2, history) + " red one"
    later = made.write("R", 2, [*history, ("Q", "red one")])
    assert later.startswith(written)
    with pytest.raises(ValueError, match="without words"):
        made.write("Q", answer=" ")


def test_a_chat_without_a_template_is_a_clear_error():
    made = processor("chat")
    made.tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat_template"):
        made.write("Q")


@pytest.mark.parametrize("order", ["question_first", "image_first"])
def test_inputs_are_laid_out_as_the_data_lays_them_out(order: str):
    made = processor(order=order)
    rows, words = [IDS[IMAGE]] * 5, encode(QUESTION)
    middle = [*words, *rows] if order == "question_first" else [*rows, *words]
    found = made(picture(0), made.write(QUESTION))
    assert found["input_ids"].tolist() == [[IDS[BOS], *middle, IDS[ANSWER]]]
    assert found["image_counts"] == (1,)


def test_a_batch_is_padded_on_the_left_and_counts_its_images():
    made = processor()
    text = [made.write(QUESTION, 2), made.write("how many things", 0), made.write("how many")]
    images = [picture(i) for i in range(3)]
    found = made(images, text)
    assert found["image_counts"] == (2, 0, 1) and found["pixel_values"].shape == (3, 3, 32, 32)
    assert (found["input_ids"] == IDS[IMAGE]).sum(dim=1).tolist() == [10, 0, 5]
    assert (found["input_ids"][:, -1] == IDS[ANSWER]).all()
    assert torch.equal(found["attention_mask"].bool(), found["input_ids"] != 0)
    nested = made([[images[0], images[1]], [], [images[2]]], text)
    assert torch.equal(nested["pixel_values"], found["pixel_values"])
    model = build_model(spec_of(TINY)).eval()
    with torch.no_grad():
        assert model(**found).logits.shape[:2] == found["input_ids"].shape
    said = model.generate(**found.to("cpu"), max_new_tokens=2, eos_token_id=None)
    assert said.shape[0] == 3


def test_text_alone_has_no_pixels():
    found = processor()(None, "how many things answer")
    assert "pixel_values" not in found and found["image_counts"] == (0,)


@pytest.mark.parametrize("images", [None, 1, 3])
def test_images_that_do_not_fit_their_placeholders_are_refused(images: int | None):
    made = processor()
    pictures = None if images is None else [picture(i) for i in range(images)]
    with pytest.raises(ValueError, match=f"2 <image> in the text, but {images or 0} images"):
        made(pictures, [made.write("how many"), made.write("how many")])
    with pytest.raises(ValueError, match="needs text"):
        made(pictures)


def test_images_are_counted_prompt_by_prompt_where_they_are_given_so():
    made = processor()
    text = [made.write("how many"), made.write("how many")]
    with pytest.raises(ValueError, match="2 images of prompt 0, which names 1"):
        made([[picture(0), picture(1)], []], text)


def test_an_image_token_is_added_where_there_is_none():
    made = chatting()
    assert made.image_token_id == 5 == len(made.tokenizer) - 1
    again = EramvProcessor.for_spec(spec_of(TINY), made.image_processor, made.tokenizer)
    assert again.image_token_id == 5 and len(again.tokenizer) == 6


def test_a_chat_begins_once():
    made = chatting()
    ids = made(picture(0), made.write("why"))["input_ids"][0].tolist()
    assert ids.count(1) == 1 and ids[0] == 1 and ids.count(5) == 5
    plain = made(None, "why")["input_ids"][0].tolist()
    assert plain == [1, 4]


# --- pixels


@pytest.mark.parametrize("side", [32, 50, 20])
def test_pixels_are_those_of_the_data(side: int):
    made = processor()
    images = [picture(i, side, side) for i in range(2)]
    expected = Pixels(size=32)([np.asarray(image) for image in images])
    found = made(images, [made.write("how many")] * 2)["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    white = made(Image.new("RGB", (32, 32), "white"), made.write("how many"))["pixel_values"]
    torch.testing.assert_close(white, torch.full_like(white, 2.0))  # (1 - 0.5) / 0.25


def wide_picture() -> Any:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = 255
    return Image.fromarray(wide)


def test_a_wide_picture_is_padded_with_the_mean():
    found = processor()(wide_picture(), "how many <image> answer")["pixel_values"][0]
    torch.testing.assert_close(found[:, :8], torch.full((3, 8, 32), -2 / 255), atol=1e-5, rtol=0)
    assert found[:, 16, 16].tolist() == [2.0] * 3  # (1 - 0.5) / 0.25


def test_a_wide_picture_is_cut_to_its_middle():
    made = image_processor(Pixels(size=32, square="crop"))
    found = made(images=wide_picture(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, torch.full_like(found, 2.0))


# --- saved


def test_a_saved_processor_comes_back(tmp_path: Path):
    for made in (processor(order="image_first"), chatting()):
        images = [picture(0), picture(1)]
        made.save_pretrained(tmp_path)
        build_model(spec_of(TINY)).save_pretrained(tmp_path)
        for cls in (EramvProcessor, AutoProcessor):
            again: Any = cls.from_pretrained(tmp_path)
            assert isinstance(again, EramvProcessor)
            assert again.prompt == made.prompt and again.visual_rows == made.visual_rows
            text = made.write("why" if made.prompt["template"] == "chat" else "how many", 2)
            assert again.write("why", 2) == made.write("why", 2)
            one, two = made(images, text), again(images, text)
            assert torch.equal(one["input_ids"], two["input_ids"])
            assert torch.equal(one["pixel_values"], two["pixel_values"])
            assert again.image_token_id == made.image_token_id


def test_a_prompt_that_is_not_sound_is_refused():
    with pytest.raises(UserError, match=r"prompt\.template"):
        EramvProcessor(prompt={"type": "image_first", "template": "vicunia"})
