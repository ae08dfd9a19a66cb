"""CIDEr-D is its definition, read once more here, and has the values worked out by hand."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from eramv_lab.evaluate.scoring.cider import cider_d


def by_definition(said: list[str], references: list[list[str]]) -> list[float]:
    """Equations 1, 2 and 5 of arXiv 1411.5726, and the length of pycocoevalcap: in bigrams."""

    def grams(text: str, n: int) -> list[tuple[str, ...]]:
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        counts = Counter(grams(text, n))
        weights = {}
        for gram, count in counts.items():
            holding = sum(any(gram in grams(r, n) for r in refs) for refs in references)
            weights[gram] = count * math.log(len(references) / max(1, holding))
        return weights

    def norm(weights: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(w * w for w in weights.values()))

    scores = []
    for text, refs in zip(said, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            for ref in refs:
                ours, theirs = vector(text, n), vector(ref, n)
                dot = sum(min(w, theirs.get(g, 0)) * theirs.get(g, 0) for g, w in ours.items())
                penalty = math.exp(-((len(grams(text, 2)) - len(grams(ref, 2))) ** 2) / 72)
                if norm(ours) and norm(theirs):
                    total += penalty * dot / norm(ours) / norm(theirs) / len(refs)
        scores.append(10 * total / 4)
    return scores


def test_against_a_direct_reading() -> None:
    draw = random.Random(0)
    words = ["star", "circle", "red", "blue", "5", "3", "a", "the"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(0, 9)))

    said = [text() for _ in range(40)]
    references = [[text() or "a" for _ in range(draw.randint(1, 4))] for _ in said]
    said[0], said[1] = references[0][0], ""
    assert cider_d(said, references) == pytest.approx(by_definition(said, references), abs=1e-9)


def test_against_the_numbers_of_pycocoevalcap() -> None:
    """Version 1.2, `CiderScorer(n=4, sigma=6.0)` on this corpus."""
    draw = random.Random(3)
    words = ["star", "circle", "red", "blue", "5", "3", "a", "the"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 9)))

    said = [text() for _ in range(60)]
    references = [[text() for _ in range(draw.randint(1, 5))] for _ in said]
    said[0] = references[0][0]
    found = cider_d(said, references)
    assert sum(found) / 60 == pytest.approx(0.8779629450891655, abs=1e-12)
    assert cider_d(["a b", "x"], [["a b c d"], ["e f g h"]])[0] == pytest.approx(3.03761077)


def test_values_worked_out_by_hand() -> None:
    """log 2 for every n-gram that one of two images has."""
    references = [["a b c d"], ["e f g h"]]
    # every n-gram is as rare: cosines are shares of n-grams, and all four orders count
    assert cider_d(["a b c d", "e f g h"], references) == pytest.approx([10.0, 10.0])
    # "a b": 2 of sqrt(2 * 4) unigrams, 1 of sqrt(1 * 3) bigrams, two bigrams too short
    short = 10 / 4 * (2 / math.sqrt(8) + 1 / math.sqrt(3)) * math.exp(-4 / 72)
    assert cider_d(["a b", "x"], references) == pytest.approx([short, 0.0])
    # of what is said twice only one counts, but the norm and the length know both
    twice = 10 / 4 * (1 / 2) * math.exp(-1 / 72)
    assert cider_d(["a a", "x"], [["a"], ["b"]]) == pytest.approx([twice, 0.0])
    # what every image has weighs nothing
    assert cider_d(["a", "a"], [["a"], ["a b"]])[0] == 0.0


def test_one_image_alone_scores_nothing_and_the_corpus_decides() -> None:
    assert cider_d(["a b c d"], [["a b c d"]]) == [0.0]
    assert cider_d([], []) == []
    two = cider_d(["a c", "c d"], [["a b"], ["c d"]])
    three = cider_d(["a c", "c d", "a d"], [["a b"], ["c d"], ["a d"]])
    assert 0 < three[0] < two[0]  # `a` is no longer rare


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="without a reference"):
        cider_d(["a"], [[]])
    with pytest.raises(ValueError):
        cider_d(["a", "b"], [["a"]])
