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


# --- conversations, text alone, long rows

TALK = [
    Asked("c-0", "what digit in red star", "7", "digit"),
    Asked("c-1", "color of digit 7", "red", "color", follows=True),
    Asked("c-2", "shape of digit 7", "star", "shape", follows=True),
    Asked("c-3", "how many things", "3", "count"),
]


def test_a_conversation_is_one_row_and_its_turns_are_learnt():
    collator = Collator(ImageFirstConfig(), 2)
    batch = collator([TALK, QUESTIONS[0]])
    assert words(batch["input_ids"][0]) == (
        "<bos> <image> <image> what digit in red star answer 7 <eos> "
        "color of digit 7 answer red <eos> shape of digit 7 answer star <eos>"
    )
    assert supervised(batch["input_ids"][0], batch["labels"][0]) == (
        ["7", "<eos>", "red", "<eos>", "star", "<eos>"]
    )
    assert batch["image_counts"] == (1,) * 4 and batch["image_index"].tolist() == [0, 0, 1, 1]


def test_earlier_turns_stand_before_a_question():
    prompts = Collator(QuestionFirstConfig(), 1).prompts([TALK])
    rows = [words(ids[mask.bool()]) for ids, mask in zip(*map(prompts.get, KEYS), strict=True)]
    assert rows == [
        "<bos> what digit in red star <image> answer",
        "<bos> what digit in red star <image> answer 7 <eos> color of digit 7 answer",
        "<bos> what digit in red star <image> answer 7 <eos> color of digit 7 answer red <eos> "
        "shape of digit 7 answer",
        "<bos> how many things <image> answer",
    ]
    assert prompts["asked"] == TALK


KEYS = ("input_ids", "attention_mask")


def test_text_alone_has_no_image():
    seen = [False, True, False, True]
    samples = [QUESTIONS[1], QUESTIONS[0], QUESTIONS[1], QUESTIONS[1]]
    for batch in (
        Collator(QuestionFirstConfig(), 3)(samples, seen),
        Collator(QuestionFirstConfig(), 3).prompts(samples, seen),
    ):
        assert batch["image_counts"] == (0, 1, 1, 0, 1)
        assert batch["image_index"].tolist() == [0, 0, 1]
        images = (batch["input_ids"] == IDS["<image>"]).sum(1).tolist()
        assert images == [0, 3, 3, 0, 3]
    model = repeat_images(batch | {"pixel_values": torch.arange(2.0)})
    assert model["pixel_values"].tolist() == [0, 0, 1] and model["image_counts"] == (0, 1, 1, 0, 1)
    alone = Collator(QuestionFirstConfig(), 3)(samples[:1], [False])
    assert repeat_images(alone | {"pixel_values": torch.zeros(0)})["pixel_values"].shape == (0,)


def test_text_alone_is_packed_behind_nothing():
    batch = Collator(ImageFirstConfig(), 2, pack=True)([QUESTIONS[0], TALK], [False, True])
    assert words(batch["input_ids"][0][:9]) == "<bos> what digit in red star answer 7 <eos>"
    assert batch["segments"][0][:10].tolist() == [0] + [1] * 8 + [2]
    # a conversation is one segment
    assert batch["segments"][1].tolist() == [0] * 3 + [1] * 22 + [2] * 6
    assert batch["image_counts"] == (0, 1)


@pytest.mark.parametrize("pack", [False, True])
def test_long_rows_are_cut_at_their_end(pack):
    whole = Collator(ImageFirstConfig(), 2, pack=pack)([TALK])
    cut = Collator(ImageFirstConfig(), 2, pack=pack, max_tokens=12)([TALK])
    assert cut["input_ids"].shape[1] == 12
    for name in ("input_ids", "labels", "attention_mask", *(["segments"] if pack else [])):
        assert torch.equal(cut[name], whole[name][:, :12])
    same = Collator(ImageFirstConfig(), 2, pack=pack, max_tokens=40)([TALK])
    assert torch.equal(same["input_ids"], whole["input_ids"])


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (9, "<bos> what digit in red star <image> <image> <image>"),
        (6, "<bos> what digit <image> <image> <image>"),
        (3, "<image> <image> <image>"),
        (2, "<image> <image> <image>"),
    ],
)
def test_an_image_is_never_cut(most, expected):
    batch = Collator(QuestionFirstConfig(), 3, max_tokens=most)([QUESTIONS[0][:1]])
    assert words(batch["input_ids"][0]) == expected
    assert (batch["labels"] == IGNORED).all() and batch["image_counts"] == (1,)
