"""One arm against another on the seeds and questions that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eramv_lab.evaluate.statistics import (
    Estimate,
    McNemar,
    joined_p,
    mcnemar,
    paired_difference,
)


@dataclass(kw_only=True)
class Difference:
    """An arm against another one, on the seeds and questions that both have."""

    to: str
    estimate: Estimate
    seeds: list[int]
    tests: list[McNemar | None]
    """Exact McNemar, seed by seed."""
    p: float | None
    """The largest of the seeds' p; None where scores are not 0 or 1."""
    p_holm: float | None = None
    """`p` corrected for the number of arms that are compared with the first."""


@dataclass(frozen=True)
class Scored:
    """The scores of an arm's seeds, a row each, on the same questions."""

    name: str
    seeds: Sequence[int]
    table: np.ndarray


def difference(own: Scored, other: Scored, images: Sequence[str]) -> Difference | None:
    """`own` minus `other`; None where they share no seed. `images`: that of each question."""
    seeds = [s for s in own.seeds if s in other.seeds]
    if not seeds:
        return None
    ours = own.table[[list(own.seeds).index(s) for s in seeds]]
    theirs = other.table[[list(other.seeds).index(s) for s in seeds]]
    tests = [mcnemar(a, b) for a, b in zip(ours, theirs, strict=True)]
    return Difference(
        to=other.name,
        estimate=paired_difference(ours, theirs, images),
        seeds=seeds,
        tests=tests,
        p=joined_p(tests),
    )
