"""CIDEr-D: how far a caption says what its references agree on (Vedantam et al. 2015).

As pycocoevalcap computes it, which is what papers print as CIDEr, times 100: n-grams of one to
four words weighed by tf-idf, the document frequency counted over the captions scored here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

ORDERS = 4
"""Longest n-grams."""
SIGMA = 6.0
"""Of the penalty of another length."""
SCALE = 10.0

Gram: TypeAlias = tuple[str, ...]
Grams: TypeAlias = Mapping[Gram, int]


def cider_d(said: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each caption, 0 to 10; their mean is the corpus' CIDEr-D.

    Args:
        said: captions, their words (lower case, no punctuation) separated by blanks.
        references: right captions of each, one at least.

    A caption's score depends on the others that are scored with it: of what every reference set
    holds nothing counts, so that one caption alone scores 0. Never average corpora. Raises
    ValueError where a caption has no reference, or where numbers of both differ.
    """
    if not all(references):
        raise ValueError("a caption without a reference cannot be scored")
    counted = [[_grams(words) for words in some] for some in references]
    frequency = Counter(gram for some in counted for gram in set().union(*some))
    log_images = math.log(max(1, len(counted)))

    def weighed(grams: Grams) -> list[dict[Gram, float]]:
        by_order: list[dict[Gram, float]] = [{} for _ in range(ORDERS)]
        for gram, count in grams.items():
            rarity = log_images - math.log(max(1, frequency[gram]))
            by_order[len(gram) - 1][gram] = count * rarity
        return by_order

    scores: list[float] = []
    for words, some in zip(said, counted, strict=True):
        own = _grams(words)
        found = [_alike(own, weighed(own), right, weighed(right)) for right in some]
        scores.append(SCALE * sum(found) / len(found))
    return scores


def _grams(words: str) -> Counter[Gram]:
    split = words.split()
    return Counter(
        tuple(split[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(split) - order + 1)
    )


def _alike(
    own: Grams,
    own_weights: Sequence[Mapping[Gram, float]],
    right: Grams,
    right_weights: Sequence[Mapping[Gram, float]],
) -> float:
    """Mean over the orders of the clipped cosine, less where the lengths differ."""
    total = 0.0
    for ours, theirs in zip(own_weights, right_weights, strict=True):
        shared = sum(min(w, theirs[g]) * theirs[g] for g, w in ours.items() if g in theirs)
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        total += shared / norms if norms else 0.0
    apart = _bigrams(own) - _bigrams(right)  # pycocoevalcap counts these as the length
    return total / ORDERS * math.exp(-(apart**2) / (2 * SIGMA**2))


def _bigrams(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)
