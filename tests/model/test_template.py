"""The chat template: `apply_chat_template` gives what `write` gives, also after saving."""

import copy
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys
from PIL import Image
from transformers import pipeline

from eramv_lab.data.pixels import Pixels
from eramv_lab.data.processor import image_processor, world_processor
from eramv_lab.model import EramvProcessor, build_model

HISTORY = [("why is it red", "it is red"), ("a </s> <image> of <|im_end|>", " so it is ")]
QUESTION = " what is <|im_start|> the colour of <image> the thing? "


def world_templates() -> list[Any]:
    return [
        processor_of(template, order, None)
        for template in ("plain", "caption", "vicuna")
        for order in ("question_first", "image_first")
    ]


def tokenizer(kind: str) -> Any:
    if kind in ("INST", "MISTRAL"):
        return hub.llama_tokenizer(getattr(hub, kind))
    return hub.qwen_tokenizer(getattr(hub, kind))


def processor_of(template: str, order: str, words: Any) -> Any:
    section = with_keys(TINY, prompt={"type": order, "template": template})
    if words is None:
        return world_processor(spec_of(section))
    return EramvProcessor.for_spec(spec_of(section), image_processor(Pixels(size=32)), words)


def message(role: str, text: str, images: int = 0, last: bool = False) -> dict[str, Any]:
    shown = [{"type": "image"}] * images
    said = [{"type": "text", "text": text}] * bool(text)
    return {"role": role, "content": said + shown if last else shown + said}


def conversation(history: list[tuple[str, str]], question: str, images: int) -> list[Any]:
    turns = [*history, (question, "")]
    found: list[Any] = []
    for number, (asked, answered) in enumerate(turns):
        found.append(message("user", asked, 0 if number else images, last=bool(number % 2)))
        found.append(message("assistant", answered))
    return found[:-1]


def agree(made: Any) -> None:
    for turns in range(3):
        for images in (0, 1, 2):
            for question in (QUESTION, ""):
                told = conversation(HISTORY[:turns], question, images)
                written = made.write(question, images, HISTORY[:turns])
                assert made.apply_chat_template(told, add_generation_prompt=True) == written


CHATS = [
    (template, order, kind)
    for order in ("question_first", "image_first")
    for template, kind in (
        *((t, "CHATML") for t in ("plain", "caption", "vicuna", "chat")),
        *(("chat", kind) for kind in ("QWEN3", "INST", "MISTRAL")),
    )
]


@pytest.mark.parametrize(("template", "order", "kind"), CHATS)
def test_the_template_writes_what_write_writes(
    template: str, order: str, kind: str, tmp_path: Path
):
    made = processor_of(template, order, tokenizer(kind))
    agree(made)
    made.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == made.chat_template
    again = EramvProcessor.from_pretrained(tmp_path)
    agree(again)
    assert again.chat_template == made.chat_template
    for turns in range(3):
        assert again.write(QUESTION, 1, HISTORY[:turns]) == made.write(QUESTION, 1, HISTORY[:turns])
    text = made.write(QUESTION)
    picture = Image.new("RGB", (32, 32))
    assert torch.equal(made(picture, text)["input_ids"], again(picture, text)["input_ids"])


def test_the_worlds_words_have_a_template_too():
    for made in world_templates():
        agree(made)


def test_ids_and_pixels_are_those_of_the_call():
    made = processor_of("plain", "question_first", None)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    told = conversation([], "how many things", 1)
    told[0]["content"][0]["image"] = picture
    found = made.apply_chat_template(
        copy.deepcopy(told), add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    expected = made(picture, made.write("how many things"))
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([message("system", "be brief")], "turns of user and assistant"),
        ([message("user", "a"), message("user", "b")], "turns of user and assistant"),
        ([*conversation([("a", "b")], "c", 0)[:2], message("user", "c", 1)], "first message"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "reads text and images"),
    ],
)
def test_what_the_prompt_cannot_say_is_refused(told: list[Any], why: str):
    made = processor_of("plain", "question_first", None)
    with pytest.raises(Exception, match=why):
        made.apply_chat_template(told)


def test_a_folder_from_before_keeps_its_prompt(tmp_path: Path):
    made = processor_of("chat", "image_first", tokenizer("QWEN3"))
    made.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(hub.QWEN3)  # the tokenizer's own, as it was
    again = EramvProcessor.from_pretrained(tmp_path)
    assert again.write(QUESTION, 1, HISTORY) == made.write(QUESTION, 1, HISTORY)
    agree(again)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_pipeline_answers_a_chat(batch: int, tmp_path: Path):
    made = processor_of("plain", "image_first", None)
    made.save_pretrained(tmp_path)
    build_model(spec_of(with_keys(TINY, prompt="image_first"))).save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    ask = pipeline("image-text-to-text", model=str(tmp_path))
    questions = ("how many things", "what digit is left of the red circle")
    told = [conversation([], question, 1) for question in questions]
    for one in told:
        one[0]["content"][0]["image"] = picture
    found = ask(text=told, max_new_tokens=3, return_full_text=False, batch_size=batch)  # type: ignore[call-overload]
    for answers, question in zip(found, questions, strict=True):
        inputs = made(picture, made.write(question))
        said = ask.model.generate(**inputs, max_new_tokens=3)[0, inputs["input_ids"].shape[1] :]
        expected = made.tokenizer.decode(said, skip_special_tokens=True)
        assert answers[0]["generated_text"].split() == expected.split()
