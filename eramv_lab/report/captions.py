"""Scores of captions beside accuracy: CIDEr-D and facts, each with its interval, and paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eramv_lab.evaluate.captions import CAPTION
from eramv_lab.evaluate.scoring.cider import SCALE
from eramv_lab.evaluate.statistics import Estimate, accuracy
from eramv_lab.report.answers import Answer
from eramv_lab.report.numbers import share
from eramv_lab.report.paired import Scored, difference
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """What the captions of several arms scored, all asked the same ones."""

    tables: Mapping[str, Mapping[str, Scored]]
    """By score and arm, as shares of the largest value; arms that lack it are not there."""
    images: Sequence[str]
    """That of each caption."""

    def scores(self, arm: str, reference: str) -> dict[str, CaptionScore]:
        """Each score that an arm has; against the reference, where that is another arm."""
        apart = {} if arm == reference else self.against(arm, reference)
        return {
            name: CaptionScore(
                estimate=_times(accuracy(np.minimum(of[arm].table, 1.0), self.images), SIZES[name]),
                difference=apart.get(name),
            )
            for name, of in self.tables.items()
            if arm in of
        }

    def against(self, arm: str, other: str) -> dict[str, Estimate]:
        """One arm minus another, on the captions and seeds that both have, by score."""
        found: dict[str, Estimate] = {}
        for name, of in self.tables.items():
            if arm in of and other in of and (d := difference(of[arm], of[other], self.images)):
                found[name] = _times(d.estimate, SIZES[name])
        return found


def captions_of(arms: Sequence[Arm], keys: Sequence[str]) -> Captions:
    """The scores of the captions among the questions `keys`, which all arms were asked."""
    sample = arms[0].runs[0].answers
    asked = [key for key in keys if sample[key].type == CAPTION]
    tables: dict[str, dict[str, Scored]] = {name: {} for name in SIZES}
    for name, size in SIZES.items() if asked else ():
        for arm in arms:
            rows = [[run.answers[key].caption.get(name) for key in asked] for run in arm.runs]
            if all(value is not None for row in rows for value in row):
                table = np.array(rows, dtype=float) / size
                tables[name][arm.name] = Scored(arm.name, arm.seeds, table)
    return Captions(tables=tables, images=[sample[key].image for key in asked])


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
            cells_of(name, [score and score.estimate for score in scores]),
            strict=True,
        )
        if any(apart):
            yield from zip((f"vs {reference}", INTERVAL), cells_of(name, apart, True), strict=True)


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


def cells_of(
    name: str, estimates: Sequence[Estimate | None], signed: bool = False
) -> tuple[list[str], list[str]]:
    """Means, and intervals, of a score or of differences, as papers print them."""

    def told(value: float) -> str:
        if SHOWN[name] == 1:
            return share(value, signed)
        return f"{value * SHOWN[name]:{'+' if signed else ''}.0f}".replace("-", "−")

    return (
        [told(e.mean) if e else "–" for e in estimates],
        [f"{told(e.low)} to {told(e.high)}" if e else "–" for e in estimates],
    )


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
