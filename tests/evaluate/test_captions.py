"""Captions among the answers are scored together, by rules of their own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from eramv_lab.data.collate import Collator
from eramv_lab.data.shards import Asked
from eramv_lab.data.world.vocabulary import EOS, IDS, WORDS
from eramv_lab.evaluate.captions import means, scored
from eramv_lab.evaluate.generate import Query, evaluate
from eramv_lab.slots.prompts.orders import ImageFirstConfig

SAID = {"red": "star 5 circle 3", "blue": "star 5", "digit": "7"}


class Speaker(nn.Module):
    """Says what `SAID` has for the last of its words that a question holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows: list[int] = []

    def generate(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        self.rows.append(len(input_ids))
        found = [[WORDS[i] for i in row] for row in input_ids]
        said = [[*next(v for k, v in SAID.items() if k in row).split(), EOS] for row in found]
        longest = max(map(len, said))
        new = torch.tensor([[IDS[w] for w in s + [EOS] * (longest - len(s))] for s in said])
        logits = [torch.zeros(len(said), len(WORDS))]
        return SimpleNamespace(sequences=torch.cat([input_ids, new], 1), logits=logits)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int, **_: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros(len(input_ids), logits_to_keep, len(WORDS)))


def test_captions_and_words_are_told_apart() -> None:
    asked = [
        Asked(
            "a", "which objects are red", "circle 3 star 5", "caption", False, ("star 5 circle 3",)
        ),
        Asked("b", "color of digit 7", "7", "color"),
        Asked("c", "which objects are blue", "star 5 cross 1", "caption"),
    ]
    model = Speaker()
    found = evaluate(
        model,
        [Query(n, f"image{n}", one) for n, one in enumerate(asked)],
        lambda numbers: {"vision_features": {"states": torch.zeros(len(numbers), 2, 3)}},
        Collator(ImageFirstConfig(), 2),
        max_new_tokens=5,
    )
    assert model.rows == [1, 2]  # equally long prompts, and captions apart
    first, word, last = found.predictions
    assert (first.score, word.score, last.score) == (0.0, 1.0, 0.0)
    assert found.rate()["accuracy"] == 1.0 and found.rate()["n"] == 1
    assert found.rate("caption")["n"] == 2
    assert first.caption and last.caption and word.caption is None
    assert first.caption.references == ("circle 3 star 5", "star 5 circle 3")
    assert first.caption.facts and first.caption.facts.f1 == 1.0
    assert found.captions()["facts"] == pytest.approx((1 + 2 / 3) / 2)
    assert found.captions()["facts_precision"] == 1.0
    assert found.captions()["facts_recall"] == 0.75
    assert "caption" not in word.row() and first.row()["caption"]["cider"] > 0
    assert found.told()["cider"] == found.captions()["cider"] > 0


def test_free_text_has_no_facts_and_loses_its_marks() -> None:
    found = scored(["A red star.", "Blue"], [("a red star", "the star"), ("blue!",)])
    assert found[0].facts is None and set(means(found)) == {"cider"}
    assert found == scored(["a red star", "blue"], [("a red star", "the star"), ("blue!",)])
    assert means([None]) == {}
