"""Captions among the answers: what CIDEr-D and the facts say of each, and their means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from eramv_lab.evaluate.scoring.cider import cider_d
from eramv_lab.evaluate.scoring.facts import Facts, facts_right

CAPTION = "caption"
"""The question type of captions."""
_PUNCTUATION = re.compile(r"[.?!,:;]|(?<!\w)-+|-+(?!\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """One caption's scores, and what it was held against."""

    references: tuple[str, ...]
    """Every right caption, the expected answer first."""
    cider: float
    """CIDEr-D with the document frequencies of all captions scored with it, 0 to 10."""
    facts: Facts | None
    """None where the expected answer is no list of facts."""


def scored(said: Sequence[str], references: Sequence[tuple[str, ...]]) -> list[Captioned]:
    """The scores of captions; `references` holds the expected answer of each first.

    Words are lower-cased and lose their punctuation, which comes near what the PTB tokeniser of
    pycocoevalcap does and is it for the made world, where there is none.
    """
    ciders = cider_d([_bare(text) for text in said], [[*map(_bare, some)] for some in references])
    return [
        Captioned(references=some, cider=cider, facts=facts_right(text, some[0]))
        for text, some, cider in zip(said, references, ciders, strict=True)
    ]


def means(captions: Iterable[Captioned | None]) -> dict[str, float]:
    """Means over captions by name: `cider`; `facts` (F1), `facts_precision`, `facts_recall`.

    Without the facts where one of them has none; empty where there is no caption.
    """
    found = [caption for caption in captions if caption is not None]
    if not found:
        return {}
    told = {"cider": fmean(caption.cider for caption in found)}
    facts = [caption.facts for caption in found if caption.facts is not None]
    if len(facts) < len(found):
        return told
    return told | {
        "facts": fmean(each.f1 for each in facts),
        "facts_precision": fmean(each.precision for each in facts),
        "facts_recall": fmean(each.recall for each in facts),
    }


def _bare(text: str) -> str:
    return _PUNCTUATION.sub(" ", text.lower())
