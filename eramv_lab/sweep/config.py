"""What a sweep file adds to a recipe: goal, budget, search space, trials, and who samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from eramv_lab.errors import Problem
from eramv_lab.recipe.parse import choice, parse_config
from eramv_lab.recipe.schema import METRICS, Count
from eramv_lab.sweep.domains import Domain, parse_domain

BUDGETS = ("prefill", "training", "parameters", "kv")
"""What a budget may bound: FLOPs of a prefill, FLOPs of the training, parameters, KV bytes."""
KEYS = (
    *("goal", "budget", "search", "trials", "begin_with", "finalists"),
    *("sampler", "pruner", "heartbeat", "storage", "launcher"),
)
"""Keys at the top of a sweep file beside a recipe's."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """How a trial whose worker is gone is found out."""

    every: Count = 30
    """Seconds between two signs of life of a running trial."""
    grace: Count = 120
    """Seconds without one after which the trial is given to another worker."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of a sweep that are plain numbers and words."""

    trials: Count = 24
    """Trials to finish, those of `begin_with` among them."""
    finalists: Count = 2
    """Best trials that are fitted with all `seeds` before one of them is called the best."""
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    """How a trial whose worker is gone is found out."""
    storage: str | None = None
    """Address of the database, `postgresql+psycopg://user@host/name`; none: a file in the study's
    folder."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A column of the row that trials are searched by."""

    metric: str
    direction: Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A budget as written: a number, or a share of what another model costs."""

    name: str
    number: float | None = None
    share: float | None = None
    of: str | None = None
    """An arm of the recipe, or another recipe's file."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A sampler or a pruner by name, with Optuna's own keyword arguments."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class _Share:
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    of: str


def parse_settings(data: Mapping[str, Any], problems: list[Problem]) -> Settings | None:
    """The plain keys."""
    own = {k: v for k, v in data.items() if k in ("trials", "finalists", "heartbeat", "storage")}
    return parse_config(Settings, own, "", problems)


def parse_goals(value: Any, problems: list[Problem]) -> tuple[Goal, ...]:
    """`accuracy`, `[accuracy, prefill_tflops]` or `{accuracy: max, prefill_tflops: min}`."""
    words = [value] if isinstance(value, str) else value
    plain = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if plain and len(set(words)) == len(words):
        words = {word: "max" if word == "accuracy" else "min" for word in words}
    if not isinstance(words, Mapping) or not 1 <= len(words) <= 2:
        message = f"expected one column of the row or two, found {value!r}"
        problems.append(Problem(message=message, key="goal", allowed=METRICS))
        return ()
    goals: list[Goal] = []
    for metric, way in words.items():
        if metric not in METRICS:
            problems.append(choice(f"the row has no {metric!r}", metric, METRICS, "goal"))
        elif way not in ("max", "min"):
            ways = ("max", "min")
            problems.append(choice(f"expected max or min, found {way!r}", way, ways, "goal"))
        else:
            direction = "maximize" if way == "max" else "minimize"
            goals.append(Goal(metric=metric, direction=direction))
    return tuple(goals)


def parse_budget(value: Any, problems: list[Problem]) -> tuple[Bound, ...]:
    """`{prefill: 2e8, parameters: {share: 1.1, of: llava}}`."""
    if value is None or value == "none":
        return ()
    if not isinstance(value, Mapping):
        message = f"expected what is bounded and by how much, found {value!r}"
        problems.append(Problem(message=message, key="budget", allowed=BUDGETS))
        return ()
    bounds: list[Bound] = []
    for name, limit in value.items():
        key = f"budget.{name}"
        if name not in BUDGETS:
            problems.append(choice(f"unknown key {name!r}", name, BUDGETS, key))
        elif isinstance(limit, Mapping):
            share = parse_config(_Share, limit, key, problems)
            if share:
                bounds.append(Bound(name=name, share=share.share, of=share.of))
        elif type(limit) in (int, float) and 0 < limit < math.inf:
            bounds.append(Bound(name=name, number=float(limit)))
        elif limit != "none":
            message = f"expected a number above 0 or {{share: ..., of: ARM}}, found {limit!r}"
            problems.append(Problem(message=message, key=key))
    return tuple(bounds)


def parse_search(value: Any, problems: list[Problem]) -> dict[str, Domain]:
    """Dotted recipe key to what it is searched over."""
    found: dict[str, Domain] = {}
    for key, domain in _domains(value):
        if domain not in (None, "none"):
            parsed = parse_domain(key, domain, problems)
            if parsed is not None:
                found[key] = parsed
    if not found and not problems:
        message = "expected recipe keys with ranges or choices"
        problems.append(Problem(message=message, key="search"))
    return found


def _domains(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a tree whose leaves are domains."""
    if isinstance(value, Mapping) and not {"from", "to"} & value.keys():
        for key, below in value.items():
            yield from _domains(below, f"{above}.{key}" if above else key)
    elif above:
        yield above, value


def parse_named(
    what: str, value: Any, names: tuple[str, ...], default: str, problems: list[Problem]
) -> Named:
    """`gp`, or `{type: gp, n_startup_trials: 8}`."""
    given = {"type": value} if isinstance(value, str) else value
    given = {"type": default} if given is None else given
    if not isinstance(given, Mapping):
        message = f"expected a name, found {value!r}"
        problems.append(Problem(message=message, key=what, allowed=names))
        return Named(type=default)
    kind = given.get("type", default)
    if kind not in names:
        problems.append(choice(f"there is no {what} {kind!r}", kind, names, what))
    return Named(type=str(kind), options={k: v for k, v in given.items() if k != "type"})
