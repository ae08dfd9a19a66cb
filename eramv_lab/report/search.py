"""A search and its trials: what was wanted, what was tried and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eramv_lab.report.differences import plain, short_names

STATES = ("complete", "pruned", "failed", "infeasible", "interrupted", "running", "waiting")
LOGARITHMIC = frozenset(
    ("prefill_tflops", "train_pflops", "parameters", "kv_mib", "latency_ms", "peak_mib", "seconds")
)
"""Prices of which factors tell, and not differences."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of a metric."""

    metric: str
    maximize: bool

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that more is better."""
        return 1 if self.maximize else -1


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound of the budget, in the unit of its metric."""

    name: str
    metric: str
    value: float
    said: str
    """As the sweep file says it: `0.46 of llava`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A setting trained again with more seeds."""

    number: int
    label: str
    values: dict[int, float]
    """Finished seeds only."""
    seeds: list[int]
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that was tried."""

    number: int
    label: str
    state: str
    given: str | None
    """The name that it has in the sweep file, where it was asked for and not sampled."""
    params: Mapping[str, Any]
    values: list[float | None]
    step: int | None
    row: Mapping[str, float]
    """Accuracy, prices, measurements: what is known of them, as finite numbers."""
    band: tuple[int, int] | None
    """First layer and number of layers."""
    anchors: int | None
    plain: bool
    resumed: int
    folder: str | None
    hash: str | None
    error: str | None

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end."""
        return self.state == "complete"


@dataclass(frozen=True, kw_only=True)
class Search:
    """Everything that search.json says."""

    study: str
    question: str
    goals: list[Goal]
    budget: list[Limit]
    reference: Mapping[str, float]
    """The point that the hypervolume is measured from, by metric."""
    reference_said: str
    space: Mapping[str, Any]
    layers: int | None
    points: float | None
    sampler: str
    pruner: str
    asked: int | None
    seed: int | None
    spent: Mapping[str, float]
    startup: Mapping[str, float]
    trials: list[Trial]
    importance: Mapping[str, float]
    finalists: list[Finalist]
    best: int | None
    changes: Mapping[str, Any]

    @cached_property
    def by_number(self) -> dict[int, Trial]:
        """The trials by their numbers."""
        return {trial.number: trial for trial in self.trials}

    @cached_property
    def axes(self) -> tuple[Goal, Goal]:
        """What is wanted, and what it is weighed against: the second goal, else prefill FLOPs."""
        up = next((g for g in self.goals if g.metric not in LOGARITHMIC), None)
        if up is None and len(self.goals) == 2:
            return self.goals[0], self.goals[1]
        up = up or Goal("accuracy", True)
        other = [g for g in self.goals if g != up]
        return up, other[0] if other else Goal("prefill_tflops", False)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Trials by state, and those that went on where an earlier one was cut off."""
        found = Counter(trial.state for trial in self.trials)
        resumed = {"resumed": sum(trial.resumed > 0 for trial in self.trials)}
        return {state: found[state] for state in STATES if found[state]} | resumed

    @cached_property
    def param_names(self) -> dict[str, str]:
        """Keys of the space that any trial sets, by their short names."""
        keys = dict.fromkeys([*self.space, *(key for t in self.trials for key in t.params)])
        used = {key for trial in self.trials for key in trial.params}
        bare = {key: key.removeprefix("model.") for key in keys if key in used}
        short = short_names(list(bare.values()))
        return {key: short[name] for key, name in bare.items()}

    def value(self, trial: Trial, metric: str) -> float | None:
        """A number of a trial: of its row, else what the search was told."""
        if metric in trial.row:
            return trial.row[metric]
        pairs = zip(self.goals, trial.values, strict=False)
        return next((v for goal, v in pairs if goal.metric == metric), None)

    def ranked(self) -> list[Trial]:
        """Completed trials, the best by the upright goal first; ties by number."""
        up, _ = self.axes
        worth = {t.number: self.value(t, up.metric) for t in self.trials if t.complete}
        gain = {number: up.sign * value for number, value in worth.items() if value is not None}
        return [self.by_number[n] for n in sorted(gain, key=lambda n: (-gain[n], n))]


def said(value: Any) -> str:
    """A setting as a recipe would write it, on one line."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(plain(value).split())
