"""How sure a number is: intervals of accuracies and paired differences, over questions and seeds.

Two things move an accuracy: which questions were drawn (questions that share an image move
together) and which seed was trained. The mean of S seeds on the same questions carries both, so
its interval joins the two half-widths as the root of their squares (MOVER: Zou & Donner 2008):
t (S - 1 degrees of freedom) for the seeds, Wilson or t with image-clustered errors for the
questions. With one seed an interval covers the questions only, and says so by `from_seeds` None.
Everything here is in closed form: no resampling, no random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval and where the interval's width comes from."""

    mean: float
    low: float
    high: float
    seeds: int
    n: int
    """Questions."""
    clusters: int
    """Groups of questions that were drawn together (images)."""
    from_questions: float
    """Half-width that the sampling of questions alone gives."""
    from_seeds: float | None
    """Half-width that the spread over seeds alone gives; None with one seed: not covered."""
    sd_seeds: float | None
    """Standard deviation of the seeds' means (n - 1)."""

    @property
    def detectable(self) -> float:
        """The smallest true effect that an interval this wide leaves out zero for, 4 times in 5."""
        normal = NormalDist()
        reach = normal.inv_cdf(0.5 + LEVEL / 2)
        return (self.high - self.low) / 2 * (reach + normal.inv_cdf(POWER)) / reach


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: (low, high). Raises ValueError where n <= 0.

    `n` may be an effective number of questions, and so may not be whole.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no proportion: {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def accuracy(scores: ArrayLike, clusters: Sequence[Any] | None = None) -> Estimate:
    """Mean score of one arm with its interval.

    `scores` is [seeds, questions] (or [questions]) in 0..1, every seed on the same questions in the
    same order; `clusters` names the image of each question. The questions' part is Wilson's
    interval at the effective number of questions n / design effect (Kish), which is exactly
    Wilson's where every question has an image of its own.
    """
    scores_SQ = _table(scores)
    per_question = scores_SQ.mean(axis=0)
    mean, n = float(per_question.mean()), per_question.size
    error, groups = clustered_error(per_question, clusters)
    if error == 0 or n == 1:
        effective = float(groups)
    else:  # seeds average out noise of single answers, but never more than all answers do
        effective = min(mean * (1 - mean) / (n - 1) / error**2 * n, float(scores_SQ.size))
    low, high = wilson(mean * effective, effective)
    of_seeds, sd = _seed_half_width(scores_SQ.mean(axis=1))
    return Estimate(
        mean=mean,
        low=max(0.0, mean - math.hypot(mean - low, of_seeds or 0)),
        high=min(1.0, mean + math.hypot(high - mean, of_seeds or 0)),
        seeds=len(scores_SQ),
        n=n,
        clusters=groups,
        from_questions=(high - low) / 2,
        from_seeds=of_seeds,
        sd_seeds=sd,
    )


def paired_difference(
    scores: ArrayLike, reference: ArrayLike, clusters: Sequence[Any] | None = None
) -> Estimate:
    """Mean of `scores - reference`, seed by seed and question by question, with its interval.

    Both are [seeds, questions] (or [questions]) on the same seeds and questions in the same order;
    ValueError where the shapes differ. Where no answer differs at all, the questions' half-width is
    the rule of three: the largest share of differing clusters that could have stayed unseen.
    """
    ours, theirs = _table(scores), _table(reference)
    if ours.shape != theirs.shape:
        raise ValueError(f"not paired: {ours.shape} against {theirs.shape} (seeds, questions)")
    difference_SQ = ours - theirs
    per_question = difference_SQ.mean(axis=0)
    mean = float(per_question.mean())
    error, groups = clustered_error(per_question, clusters)
    if groups < 2:
        of_questions = 1.0
    elif not difference_SQ.any():
        of_questions = 1 - (1 - LEVEL) ** (1 / groups)
    else:
        of_questions = t_quantile(0.5 + LEVEL / 2, groups - 1) * error
    of_seeds, sd = _seed_half_width(difference_SQ.mean(axis=1))
    half = math.hypot(of_questions, of_seeds or 0)
    return Estimate(
        mean=mean,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
        seeds=len(difference_SQ),
        n=per_question.size,
        clusters=groups,
        from_questions=of_questions,
        from_seeds=of_seeds,
        sd_seeds=sd,
    )


def clustered_error(values: Floats, clusters: Sequence[Any] | None = None) -> tuple[float, int]:
    """Standard error of the mean of `values` [questions], and the number of clusters G.

    Sums of residuals per cluster, times G / (G - 1) (Liang & Zeger 1986); with one value a cluster
    this is the plain sd / sqrt(n). One cluster alone has no error to estimate: 0.
    """
    residuals = values - values.mean()
    if clusters is not None:
        if len(clusters) != len(values):
            raise ValueError(f"{len(clusters)} clusters for {len(values)} questions")
        number = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        residuals = np.bincount([number[c] for c in clusters], weights=residuals)
    groups = residuals.size
    if groups < 2:
        return 0.0, groups
    variance = groups / (groups - 1) * float(residuals @ residuals) / len(values) ** 2
    return math.sqrt(variance), groups


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Exact McNemar test of two 0/1 vectors: who was right where the other was wrong."""

    gained: int
    """Questions that only `scores` answers."""
    lost: int
    """Questions that only `reference` answers."""
    p: float
    """Two-sided binomial probability; image clusters are not accounted for."""


def mcnemar(scores: ArrayLike, reference: ArrayLike) -> McNemar | None:
    """The exact test on one seed's answers; None where scores are not all 0 or 1."""
    ours, theirs = _table(scores).ravel(), _table(reference).ravel()
    if ours.shape != theirs.shape:
        raise ValueError(f"not paired: {ours.size} against {theirs.size} questions")
    if not (np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all()):
        return None
    gained, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return McNemar(gained=gained, lost=lost, p=min(1.0, 2 * tail / 2**n))


def joined_p(tests: Sequence[McNemar | None]) -> float | None:
    """One p for the claim that the arms differ, the same way, in every seed: the largest of them.

    An intersection-union test; a seed that points the other way than the total counts as 1.
    """
    known = [t for t in tests if t is not None]
    if not known or len(known) < len(tests):
        return None
    total = sum(t.gained - t.lost for t in known)
    return max(t.p if (t.gained - t.lost) * total > 0 else 1.0 for t in known)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of p-values for how many there are; None stays None."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, i) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        corrected[i] = worst
    return corrected


def t_interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval (low, high) of the mean of at least two values."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    half = t_quantile(0.5 + level / 2, numbers.size - 1) * float(numbers.std(ddof=1))
    half /= math.sqrt(numbers.size)
    return mean - half, mean + half


def t_quantile(p: float, df: int) -> float:
    """The `p` quantile of Student's t with a whole number of degrees of freedom, by bisection."""
    if df < 1 or not 0 < p < 1:
        raise ValueError(f"no t quantile for p = {p}, {df} degrees of freedom")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < p:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, df: int) -> float:
    """Probability below t >= 0 (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    sin, cos = math.sin(angle), math.cos(angle)
    first = 1 if df % 2 == 0 else cos
    term, total = first, first if df > 1 else 0.0
    for k in range(2 if df % 2 == 0 else 3, df - 1, 2):
        term *= (k - 1) / k * cos * cos
        total += term
    inside = sin * total if df % 2 == 0 else 2 / math.pi * (angle + sin * total)
    return 0.5 + inside / 2


def _seed_half_width(means_S: Floats) -> tuple[float | None, float | None]:
    """Half-width of the t interval of the seeds' means, and their standard deviation."""
    if len(means_S) < 2:
        return None, None
    low, high = t_interval(means_S)
    return (high - low) / 2, float(means_S.std(ddof=1))


def _table(scores: ArrayLike) -> Floats:
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected scores of [seeds, questions], found shape {table.shape}")
    return table
