"""Scores of captions beside accuracy: CIDEr-D and facts, each with its interval, and paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eramv_lab.evaluate.captions import CAPTION
from eramv_lab.evaluate.scoring.cider import SCALE
from eramv_lab.evaluate.statistics import Estimate, accuracy, paired_difference
from eramv_lab.report.answers import Answer
from eramv_lab.report.numbers import share
from eramv_lab.report.runs import Arm

SIZES = {"cider": SCALE, "facts": 1.0}
"""Scores of a caption, and the largest value of each."""
HEADS = {"cider": "CIDEr-D", "facts": "facts"}
"""What they are called in a table."""
INTERVAL = "95 % interval"
SHOWN = {"cider": 100.0, "facts": 1.0}
"""What a table multiplies them by: papers print CIDEr-D as pycocoevalcap gives it, times 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionScore:
    """One score of an arm's captions."""

    estimate: Estimate
    """Mean over captions and seeds; a corpus' CIDEr-D is that mean. Document frequencies are those
    of the whole corpus, also within the interval."""
    difference: Estimate | None = None
    """Against the reference, on the captions and seeds that both have."""


def without_captions(sample: Mapping[str, Answer], keys: Sequence[str]) -> list[str]:
    """The questions that accuracy is of: all but captions, or all where nothing else is asked."""
    return [key for key in keys if sample[key].type != CAPTION] or list(keys)


def caption_scores(
    arms: Sequence[Arm], keys: Sequence[str], reference: str
) -> dict[str, dict[str, CaptionScore]]:
    """By arm, the scores that all its captions have; all arms were asked the same `keys`.

    Differences are to the arm called `reference`: there are none where it is not among `arms`.
    """
    sample = arms[0].runs[0].answers
    asked = [key for key in keys if sample[key].type == CAPTION]
    images = [sample[key].image for key in asked]
    found: dict[str, dict[str, CaptionScore]] = {arm.name: {} for arm in arms}
    for name, size in SIZES.items() if asked else ():
        first: tuple[list[int], np.ndarray] | None = None
        for arm in sorted(arms, key=lambda arm: arm.name != reference):
            rows = [[run.answers[key].caption.get(name) for key in asked] for run in arm.runs]
            if any(value is None for row in rows for value in row):
                continue
            table = np.array(rows, dtype=float) / size
            difference = None if first is None else _difference(arm.seeds, table, *first, images)
            if arm.name == reference:
                first = (arm.seeds, table)
            found[arm.name][name] = CaptionScore(
                estimate=_times(accuracy(np.minimum(table, 1.0), images), size),
                difference=difference and _times(difference, size),
            )
    return found


def caption_columns(
    arms: Sequence[Mapping[str, CaptionScore]], reference: str
) -> Iterator[tuple[str, list[str]]]:
    """Heading and a cell per arm: mean, interval, difference to the reference, of each score."""
    for name in SIZES:
        scores = [arm.get(name) for arm in arms]
        if not any(scores):
            continue
        apart = [score and score.difference for score in scores]
        yield from zip(
            (HEADS[name], INTERVAL),
            _cells(name, [score and score.estimate for score in scores]),
            strict=True,
        )
        if any(apart):
            yield from zip((f"vs {reference}", INTERVAL), _cells(name, apart, True), strict=True)


def caption_numbers(scores: Mapping[str, CaptionScore]) -> dict[str, float]:
    """The scores of an arm by name, unrounded."""
    row: dict[str, float] = {}
    for name, score in scores.items():
        e, d = score.estimate, score.difference
        row |= {name: e.mean, f"{name}_low": e.low, f"{name}_high": e.high, "n_captions": e.n}
        if d is not None:
            row |= {f"{name}_difference": d.mean, f"{name}_difference_low": d.low}
            row |= {f"{name}_difference_high": d.high}
    return row


def _cells(
    name: str, estimates: Sequence[Estimate | None], signed: bool = False
) -> tuple[list[str], list[str]]:
    """Means, and intervals."""

    def told(value: float) -> str:
        if SHOWN[name] == 1:
            return share(value, signed)
        return f"{value * SHOWN[name]:{'+' if signed else ''}.0f}".replace("-", "−")

    return (
        [told(e.mean) if e else "–" for e in estimates],
        [f"{told(e.low)} to {told(e.high)}" if e else "–" for e in estimates],
    )


def _difference(
    seeds: Sequence[int],
    table: np.ndarray,
    of_first: Sequence[int],
    first: np.ndarray,
    images: Sequence[str],
) -> Estimate | None:
    both = [seed for seed in seeds if seed in of_first]
    if not both:
        return None
    ours = table[[seeds.index(seed) for seed in both]]
    theirs = first[[of_first.index(seed) for seed in both]]
    return paired_difference(ours, theirs, images)


def _times(estimate: Estimate, size: float) -> Estimate:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * size

    return replace(
        estimate,
        mean=estimate.mean * size,
        low=estimate.low * size,
        high=estimate.high * size,
        from_questions=estimate.from_questions * size,
        from_seeds=scaled(estimate.from_seeds),
        sd_seeds=scaled(estimate.sd_seeds),
    )
