"""Facts are counted once each, in any order, and what is no fact is one told wrong."""

from __future__ import annotations

import pytest

from eramv_lab.evaluate.scoring.facts import facts_of, facts_right


@pytest.mark.parametrize(
    ("said", "precision", "recall", "f1"),
    [
        ("circle 3 star 5", 1, 1, 1),
        ("star 5 circle 3", 1, 1, 1),
        ("star 5", 1, 0.5, 2 / 3),
        ("star 5 circle 4", 0.5, 0.5, 0.5),
        ("star 5 star 5", 0.5, 0.5, 0.5),
        ("star 5 circle 3 cross 1 thing 2", 0.5, 1, 2 / 3),
        ("star circle 3", 0.5, 0.5, 0.5),
        ("5 star", 0, 0, 0),
        ("star 5 3 circle", 0, 0, 0),
        ("red circle 3", 0.5, 0.5, 0.5),
        ("", 0, 0, 0),
    ],
)
def test_facts_right(said: str, precision: float, recall: float, f1: float) -> None:
    found = facts_right(said, "circle 3 star 5")
    assert found is not None
    assert (found.precision, found.recall) == (precision, recall)
    assert found.f1 == pytest.approx(f1)


@pytest.mark.parametrize("text", ["", "red", "star", "star red", "a star 5", "star 5 3", "5 star"])
def test_what_is_no_list_of_facts(text: str) -> None:
    assert facts_of(text) is None and facts_right("star 5", text) is None
