"""The standings of a league: at each budget the systems by accuracy, against the null lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.recipe.match import TOLERANCE
from eramv_lab.report.captions import Captions
from eramv_lab.report.paired import Difference, Scored, difference

if TYPE_CHECKING:
    from eramv_lab.report.comparison import ArmResult

PREFILL = "prefill_tflops"


@dataclass(kw_only=True)
class Standing:
    """One line of a league."""

    arm: ArmResult
    system: str
    """Name of its recipe."""
    name: str
    """As its paper names it."""
    trains: str
    budget: float | None
    """None for a system with one price."""
    share: float | None
    """Its prefill as a share of the full system's."""
    null: bool
    """Whether it is a null line."""
    full: bool = False
    """Whether it is the system that reads every token."""
    to_null: Difference | None = None
    """Against the first null line, at the least of its prices that is not below this one."""
    captions_to_null: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    """The same of the captions, by score."""
    null_share: float | None = None
    """That null line's prefill as a share of the full system's."""


@dataclass(kw_only=True)
class Group:
    """The systems at one budget, the best first."""

    budget: float | None
    """None: those with one price, the full system among them."""
    lines: list[Standing]

    def title(self, full: str) -> str:
        """What stands above it."""
        if self.budget is None:
            return "systems with one price"
        return f"about {self.budget:.0%} of the prefill of {full}".replace("%", " %")


@dataclass(kw_only=True)
class Standings:
    """A league as a table and a picture need it."""

    full: str
    """Name of the full arm."""
    null: list[str]
    """Names of the systems that are null lines; the first is what `to_null` compares with."""
    groups: list[Group]
    unreached: dict[str, str] = field(default_factory=dict[str, str])
    """Arms that there are not, with the reason."""

    @property
    def lines(self) -> list[Standing]:
        """All lines, group by group."""
        return [line for group in self.groups for line in group.lines]

    def name_of(self, system: str) -> str:
        """A system as its paper names it."""
        return next((line.name for line in self.lines if line.system == system), system)


def standings(
    told: Mapping[str, Any],
    results: Sequence[ArmResult],
    scores: Mapping[str, Scored],
    images: Sequence[str],
    captions: Captions,
) -> Standings:
    """The standings of a study that is a league, as `study.json` tells it.

    `scores` and `images`: of the arms that have finished, on the questions that all were asked.
    """
    full = str(told["full"])
    arms: Mapping[str, Any] = told.get("arms") or {}
    null = [str(one) for one in told.get("null") or ()]
    whole = next((arm.cost.get(PREFILL) for arm in results if arm.name == full), None)
    lines: list[Standing] = []
    for arm in results:
        entry = arms.get(arm.name)
        if entry is None:
            continue  # an arm that the recipe names beside its league
        own = arm.cost.get(PREFILL)
        lines.append(
            Standing(
                arm=arm,
                system=entry["system"],
                name=entry["name"],
                trains=entry["trains"],
                budget=entry["budget"],
                share=own / whole if own and whole else None,
                null=entry["system"] in null,
                full=arm.name == full,
            )
        )
    _against_null(lines, null, scores, images, captions)
    budgets = [*map(float, told.get("budgets") or ()), None]
    groups = [
        Group(budget=b, lines=sorted((i for i in lines if i.budget == b), key=_rank))
        for b in (budgets[-1], *budgets[:-1])
    ]
    return Standings(
        full=full,
        null=null,
        groups=[group for group in groups if group.lines],
        unreached={str(k): str(v) for k, v in (told.get("unreached") or {}).items()},
    )


def _rank(line: Standing) -> tuple[float, str]:
    """The best first, those that have not finished last."""
    return (-line.arm.accuracy.mean if line.arm.accuracy else math.inf, line.arm.name)


def _against_null(
    lines: Sequence[Standing],
    null: Sequence[str],
    scores: Mapping[str, Scored],
    images: Sequence[str],
    captions: Captions,
) -> None:
    """Compare every line with the first null line where that one costs as much or more.

    Against an arm that cost less, a lead is no result. Where all cost less it is the dearest.
    """
    controls = [line for line in lines if null and line.system == null[0]]
    for line in lines:
        if line in controls or line.arm.name not in scores:
            continue
        there = [one for one in controls if one.arm.name in scores and one.share]
        if line.full or not there or not line.share:
            continue
        there.sort(key=lambda one: one.share or 0.0)
        least = line.share / (1 + TOLERANCE)
        null_line = next((one for one in there if (one.share or 0.0) >= least), there[-1])
        line.to_null = difference(scores[line.arm.name], scores[null_line.arm.name], images)
        line.captions_to_null = captions.against(line.arm.name, null_line.arm.name)
        line.null_share = null_line.share
