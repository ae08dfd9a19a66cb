"""Facts named right: which of the things that a caption tells are there, each counted once.

A caption of the made world is a list of facts, a shape and its digit each: `star 5 circle 3`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from eramv_lab.data.world.vocabulary import DIGITS, MORE_SHAPES, SHAPES

_SHAPES = frozenset((*SHAPES, *MORE_SHAPES))
_DIGITS = frozenset(DIGITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How a caption's facts compare with those that are true, each from 0 to 1."""

    precision: float
    """Of the facts told, those that are true; 0 where none is told."""
    recall: float
    """Of the true facts, those that are told."""
    f1: float
    """The harmonic mean of both."""


def facts_of(caption: str) -> Counter[str] | None:
    """The facts of a caption; None where it is no list of them."""
    found = _told(caption)
    return found if found and all(map(_sound, found)) else None


def facts_right(said: str, right: str) -> Facts | None:
    """The facts of `said` against those of `right`; None where `right` is no list of facts.

    A fact told twice is true once. A shape without a digit, and words before the first shape,
    are facts told that are not true.
    """
    true, told = facts_of(right), _told(said)
    if true is None:
        return None
    hits = (true & told).total()
    precision = hits / told.total() if told else 0.0
    recall = hits / true.total()
    f1 = 2 * hits / (told.total() + true.total())
    return Facts(precision=precision, recall=recall, f1=f1)


def _sound(fact: str) -> bool:
    shape, *digits = fact.split()
    return shape in _SHAPES and len(digits) == 1 and digits[0] in _DIGITS


def _told(caption: str) -> Counter[str]:
    """Stretches of words that begin with a shape each, and what stands before the first."""
    found: list[list[str]] = []
    for word in caption.split():
        if word in _SHAPES or not found:
            found.append([])
        found[-1].append(word)
    return Counter(" ".join(words) for words in found)
