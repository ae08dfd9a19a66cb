"""A model asked in words: the same answers as transformers' own way, alone and together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws.probes import perturb
from PIL import Image

from eramv_lab.errors import UserError
from eramv_lab.talk import How, Question, Talker
from eramv_lab.talk.pictures import open_pictures
from tests.talk.tiny import talker_of

SIX = How(max_new_tokens=6)
ASK = "what digit in red circle"


def asked(talker: Talker, files: list[Path], text: str = ASK, **more: Any) -> Question:
    return Question(text=text, images=tuple(talker.see(open_pictures(files))), **more)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_an_answer_is_what_generate_says(talker: Talker, pictures: Path, images: int):
    files = [pictures / f"{n}.png" for n in range(images)]
    opened = [Image.open(file) for file in files]
    inputs = talker.processor(opened or None, talker.processor.write(ASK, images))
    ids = talker.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = ids[0, inputs["input_ids"].shape[1] :].tolist()
    found = talker.ask(files, ASK, how=SIX)
    assert list(found.ids) == [i for i in expected if i != 2]
    assert found.ended == (2 in expected) and found.plain()["tokens"] == len(found.ids)
    assert found.text == talker.processor.tokenizer.decode(list(found.ids))


def test_a_batch_answers_as_each_alone(talker: Talker, pictures: Path):
    files = [pictures / f"{n}.png" for n in range(3)]
    questions = [
        asked(talker, files[:1]),
        asked(talker, [], "how many"),
        asked(talker, files[1:], "is there a blue star or red circle"),
        asked(talker, files[:1], "color of digit 3", history=((ASK, "7"),)),
    ]
    together = talker.answer(questions, SIX)
    assert together == [talker.answer([one], SIX)[0] for one in questions]
    assert len({one.ids for one in together}) > 1


def test_history_goes_before_the_question(talker: Talker, pictures: Path):
    question = asked(talker, [pictures / "0.png"], "how many", history=((ASK, "7"),))
    ids = talker.inputs([question])["input_ids"][0]
    words = talker.processor.tokenizer.decode(ids[ids != talker.processor.image_token_id])
    assert words == f"<bos> {ASK} answer 7 <eos> how many answer"


def test_a_picture_is_a_path_an_image_or_an_array(talker: Talker, pictures: Path, tmp_path: Path):
    file = pictures / "0.png"
    with Image.open(file) as opened:
        ways: list[Any] = [file, str(file), [file], opened, np.asarray(opened)]
        assert len({talker.ask(way, ASK, how=SIX).ids for way in ways}) == 1
    talker.ask(file, ASK, show=tmp_path / "look.png")
    assert (tmp_path / "look.png").is_file()
    with pytest.raises(UserError, match=r"uint8 \[H,W,3\], found float32 \[4, 4\]"):
        talker.ask(np.zeros((4, 4), np.float32), ASK)
    with pytest.raises(UserError, match=r"2 problems\n1. nowhere.png: there is no such picture"):
        talker.ask(["nowhere.png", file, __file__], ASK)


def test_a_strip_is_no_square_of_its_length(talker: Talker):
    strip = np.zeros((1, 20_000, 3), np.uint8)
    assert max(open_pictures(strip)[0].shape) < 10_000


def test_a_draw_follows_its_seed_and_leaves_no_trace(talker: Talker, pictures: Path):
    def drawn(seed: int) -> tuple[int, ...]:
        how = How(max_new_tokens=6, temperature=5.0, seed=seed)
        return talker.ask(pictures / "0.png", ASK, how=how).ids

    state = torch.random.get_rng_state()
    assert drawn(1) == drawn(1) and len({drawn(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_answer_that_does_not_end_is_cut(talker: Talker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(talker, "stops", [99])
    found = talker.ask(None, ASK, how=How(max_new_tokens=3))
    assert not found.ended and found.plain()["finish"] == "length" and len(found.ids) == 3
    monkeypatch.setattr(talker, "stops", [found.ids[1]])
    again = talker.ask(None, ASK, how=How(max_new_tokens=3))
    assert again.ended and again.ids == found.ids[:1]
    assert again.plain() == {"prediction": again.text, "finish": "ended", "tokens": 1}


def test_words_that_the_model_lacks_are_named(talker: Talker):
    with pytest.raises(UserError) as caught:
        talker.ask(None, "what Circle in the aubergine sqare")
    told = str(caught.value)
    assert "3 problems" in told and "the model does not know the word 'aubergine'" in told
    assert "'Circle'\n    did you mean: circle" in told and "did you mean: square" in told
    assert told.count("allowed: ") == 1 and "<bos>" not in told


def test_a_prompt_longer_than_the_model_is_refused(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, pictures: Path
):
    monkeypatch.setattr(talker, "longest", 14)
    with pytest.raises(UserError, match="the prompt has 17 rows, and the language model takes 14"):
        talker.ask([pictures / "0.png", pictures / "1.png"], ASK)
    short = talker.ask(pictures / "0.png", ASK, how=How(max_new_tokens=50))
    assert len(short.ids) <= 2


def chatting() -> Talker:
    """A model whose tokenizer writes every word, and has a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from eramv_lab.data.pixels import Pixels
    from eramv_lab.data.processor import image_processor
    from eramv_lab.model import EramvProcessor, build_model

    known = ["<end>", "<unk>", "[user]", "[assistant]", "why", "red"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="<end>",
        chat_template="{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end> "
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    )
    spec = talker_of(prompt={"type": "image_first", "template": "chat"}).model.spec
    processor = EramvProcessor.for_spec(spec, image_processor(Pixels(size=32)), tokenizer)
    model = build_model(spec, image_token_id=processor.image_token_id, stops=[11])
    perturb(model)
    return Talker(model, processor)


def test_a_tokenizer_of_its_own_with_a_chat_template(pictures: Path):
    talker = chatting()
    assert (talker.stops, talker.pad) == ([11], 0)
    first = asked(talker, [pictures / "0.png"], "why aubergine")
    talker.check(first)  # this one writes every word
    later = Question(text="why", images=first.images, history=(("red", "red"),))
    rows = talker.inputs([later])["input_ids"][0]
    said = talker.processor.tokenizer.decode(rows[rows != talker.processor.image_token_id])
    assert said == "[user] red <end> [assistant] red <end> [user] why <end> [assistant]"
    assert (rows == talker.processor.image_token_id).sum() == 5
    both = talker.answer([first, later], SIX)
    assert both == [talker.answer([one], SIX)[0] for one in (first, later)]


def test_an_empty_question_is_refused(talker: Talker):
    with pytest.raises(UserError, match="empty"):
        talker.ask(None, " ")
