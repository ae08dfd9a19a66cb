"""Answers are told apart word by word, in the order of the questions, without padding."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from eramv_lab.data.collate import Collator
from eramv_lab.data.shards import Asked
from eramv_lab.data.world.vocabulary import EOS, IDS, WORDS
from eramv_lab.evaluate.generate import Query, evaluate, queries
from eramv_lab.slots.prompts.orders import ImageFirstConfig

GIVEN = {"red": ["7", EOS], "green": [EOS, EOS], "blue": ["7", "7"], "cyan": ["3", EOS]}


class Parrot(nn.Module):
    """Answers by the first word of the question, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def generate(self, input_ids: torch.Tensor, **inputs: Any) -> SimpleNamespace:
        assert inputs["attention_mask"].all() and not self.training
        assert len(inputs["vision_features"]["states"]) == len(input_ids)
        self.shapes.append(tuple(input_ids.shape))
        words = [next(w for w in (WORDS[i] for i in row) if w in GIVEN) for row in input_ids]
        new = torch.tensor([[IDS[w] for w in GIVEN[word]] for word in words])
        logits = torch.zeros(len(words), len(WORDS))
        return SimpleNamespace(sequences=torch.cat([input_ids, new], 1), logits=[logits])


def ask(*questions: str) -> list[Query]:
    return [
        Query(i // 2, f"image{i // 2}", Asked(key=f"q{i}", question=q, answer="7", type="digit"))
        for i, q in enumerate(questions)
    ]


def images(numbers: Any) -> dict[str, Any]:
    return {"vision_features": {"states": torch.zeros(len(numbers), 2, 3)}}


def test_scores_and_states() -> None:
    model, done = Parrot(), []
    found = evaluate(
        model,
        ask("what digit in red star", "green", "blue", "cyan"),
        images,
        Collator(ImageFirstConfig(), 2),
        batch=2,
        progress=done.append,
    )
    told = [(p.key, p.image, p.prediction, p.score, p.status) for p in found.predictions]
    assert told == [
        ("q0", "image0", "7", 1.0, "ok"),
        ("q1", "image0", "", 0.0, "empty"),
        ("q2", "image1", "7 7", 0.0, "unparsed"),
        ("q3", "image1", "3", 0.0, "ok"),
    ]
    assert done == [2, 3, 4]
    assert [shape[0] for shape in model.shapes] == [2, 1, 1]
    assert model.training
    assert found.loss == pytest.approx(torch.tensor(len(WORDS)).log().item())
    rate = found.per_type()["digit"]
    assert rate["accuracy"] == 0.25 and rate["n"] == 4 and rate["low"] < 0.25 < rate["high"]


class Listener(nn.Module):
    """Says what it was told to say, and keeps what it was given."""

    def __init__(self, *said: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.said, self.given = list(said), []

    def generate(self, input_ids: torch.Tensor, **inputs: Any) -> SimpleNamespace:
        self.given.append(([[WORDS[i] for i in row] for row in input_ids], inputs))
        new = torch.tensor([[IDS[w] for w in self.said.pop(0)] for _ in input_ids])
        logits = torch.zeros(len(input_ids), len(WORDS))
        return SimpleNamespace(sequences=torch.cat([input_ids, new], 1), logits=[logits])

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int, **inputs: Any) -> Any:
        assert inputs["attention_mask"].shape == input_ids.shape
        kept = torch.zeros(len(input_ids), logits_to_keep, len(WORDS))
        return SimpleNamespace(logits=kept)


def test_conversations_and_text_alone() -> None:
    talk = [
        Asked("a", "what digit", "7", "x"),
        Asked("b", "color of digit 7", "red star", "x", follows=True),
    ]
    alone = [Asked("c", "what digit", "", "x")]
    model, asked_for = Listener(["7", EOS], [EOS, EOS], ["red", "star"]), []

    def seen(numbers: Any) -> dict[str, Any]:
        asked_for.append(list(numbers))
        return images(numbers)

    found = evaluate(
        model,
        [*queries(0, "one", talk), *queries(1, "two", alone, False)],
        seen,
        Collator(ImageFirstConfig(), 1),
        batch=2,
    )
    rows = [" ".join(row) for given, _ in model.given for row in given]
    assert rows == [
        "<bos> what digit answer",
        "<bos> <image> what digit answer",
        "<bos> <image> what digit answer 7 <eos> color of digit 7 answer",
    ]
    assert asked_for == [[0], [0]]  # nothing for the sample without an image
    assert [inputs["image_counts"] for _, inputs in model.given] == [(0,), (1,), (1,)]
    assert "vision_features" not in model.given[0][1]
    told = [(p.key, p.prediction, p.score, p.status) for p in found.predictions]
    assert told == [
        ("a", "", 0.0, "empty"),
        ("b", "red star", 0.0, "unparsed"),  # the right words, without an end
        ("c", "7", 0.0, "ok"),
    ]
    flat = pytest.approx(torch.tensor(len(WORDS)).log().item())
    assert [p.nll for p in found.predictions] == [flat, flat, 0.0]  # an empty answer costs nothing
    assert model.given[0][1]["eos_token_id"] == [IDS[EOS]]
