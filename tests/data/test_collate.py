"""Batches: what is supervised, how questions share an image, where prompts are padded."""

import pytest
import torch

from eramv_lab.data.collate import IGNORED, Collator, repeat_images
from eramv_lab.data.shards import Asked
from eramv_lab.data.world.vocabulary import IDS, WORDS
from eramv_lab.slots.prompts.orders import ImageFirstConfig, QuestionFirstConfig

QUESTIONS = [
    [
        Asked("a-0", "what digit in red star", "7", "digit"),
        Asked("a-1", "color of digit 7", "red", "color"),
    ],
    [Asked("b-0", "greater red star or blue circle", "9", "compare")],
]


def words(ids):
    return " ".join(WORDS[i] for i in ids.tolist())


def supervised(ids, labels):
    """(words before, answer) of each supervised run of a row."""
    return [WORDS[label] for label in labels.tolist() if label != IGNORED]


def test_a_row_for_each_question():
    batch = Collator(QuestionFirstConfig(), 2)(QUESTIONS)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 12)
    assert words(batch["input_ids"][0][:11]) == (
        "<bos> what digit in red star <image> <image> answer 7 <eos>"
    )
    assert batch["attention_mask"].sum(1).tolist() == [11, 10, 12]
    assert supervised(batch["input_ids"][1], batch["labels"][1]) == ["red", "<eos>"]
    assert batch["image_index"].tolist() == [0, 0, 1]
    held = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][held], batch["input_ids"][held])


def test_image_first():
    batch = Collator(ImageFirstConfig(), 1)(QUESTIONS[1:])
    assert words(batch["input_ids"][0]) == (
        "<bos> <image> greater red star or blue circle answer 9 <eos>"
    )


def test_packed_behind_one_image():
    batch = Collator(ImageFirstConfig(), 2, pack=True)(QUESTIONS)
    assert words(batch["input_ids"][0]) == (
        "<bos> <image> <image> what digit in red star answer 7 <eos> "
        "color of digit 7 answer red <eos>"
    )
    assert batch["segments"][0].tolist() == [0] * 3 + [1] * 8 + [2] * 7
    assert batch["attention_mask"].sum(1).tolist() == [18, 12]
    assert words(batch["input_ids"][1][12:]) == " ".join(["<pad>"] * 6)
    assert not batch["segments"][1][12:].any()
    assert "image_index" not in batch


@pytest.mark.parametrize("rows", [1, 5])
def test_packed_and_unpacked_supervise_the_same(rows):
    packed = Collator(ImageFirstConfig(), rows, pack=True)(QUESTIONS)
    single = Collator(ImageFirstConfig(), rows)(QUESTIONS)
    prefix = rows + 1
    row = 0
    for image, group in enumerate(QUESTIONS):
        for segment in range(1, len(group) + 1):
            of_question = packed["segments"][image] == segment
            real = single["attention_mask"][row].bool()
            for name in ("input_ids", "labels"):
                assert torch.equal(
                    packed[name][image][of_question], single[name][row][real][prefix:]
                )
            row += 1


@pytest.mark.parametrize("order", [ImageFirstConfig, QuestionFirstConfig])
def test_prompts_end_where_the_answer_begins(order):
    collator = Collator(order(), 3)
    batch, train = collator.prompts(QUESTIONS), collator(QUESTIONS)
    assert (batch["input_ids"][:, -1] == IDS["answer"]).all()
    assert [a.key for a in batch["asked"]] == ["a-0", "a-1", "b-0"]
    for row in range(3):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert torch.equal(train["input_ids"][row][: len(ids)], ids)
        assert train["labels"][row][len(ids)] == IDS[batch["asked"][row].answer]
        assert not batch["attention_mask"][row][: -len(ids)].any()


def test_images_are_repeated_just_before_the_model():
    batch = Collator(QuestionFirstConfig(), 1)(QUESTIONS)
    batch["vision_features"] = {"states": torch.arange(2.0)[:, None, None].expand(2, 4, 3)}
    batch["pixel_values"] = torch.arange(2.0)
    model = repeat_images(batch)
    assert model["vision_features"]["states"][:, 0, 0].tolist() == [0, 0, 1]
    assert model["pixel_values"].tolist() == [0, 0, 1] and "image_index" not in model
    assert len(batch["vision_features"]["states"]) == 2  # the batch stays as it was
    packed = {"input_ids": batch["input_ids"]}
    assert repeat_images(packed) == packed
