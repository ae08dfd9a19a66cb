"""The next setting to try: what a sampler asks for, or what lies nearest to it and is new.

The sampler never sees the study itself but a copy in memory, in coordinates in which every point
is feasible. So pruned trials teach it too (with the value they had), trials outside the space do
not confuse it, and its choice depends on the trials and a seed alone: a worker that comes later
chooses what one that was killed would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from eramv_lab.sweep.config import Goal
from eramv_lab.sweep.domains import Choices
from eramv_lab.sweep.space import Point, Space, Values, name_of

TRIES = 300
"""Points near the asked one that are looked at before any new one is taken."""


def propose(
    learnt: Iterable[tuple[Values, Sequence[float] | None]],
    tried: set[str],
    space: Space,
    goals: Sequence[Goal],
    sampler: Any,
    seed: int,
) -> Values | None:
    """The next values; None where nothing new is left.

    Args:
        learnt: settings with their values by goal, None for one that is being tried now.
        tried: `identity` of every setting that is not to be tried again.
        sampler: an Optuna sampler.
    """
    view = optuna.create_study(directions=[g.direction for g in goals], sampler=sampler)
    kinds = {key: _coordinate(space, key) for key in space.coordinates}
    view.add_trials([_seen(space.encode(values), kinds, found) for values, found in learnt])
    asked: Point = dict(view.ask(kinds).params)
    values = space.decode(asked)
    if space.identity(values) not in tried:
        return values
    return _near(asked, tried, space, seed) or _any(tried, space, seed)


def learnt_of(
    trials: Iterable[FrozenTrial], values_of: Any
) -> list[tuple[Values, Sequence[float] | None]]:
    """What a sampler learns from: finished trials, pruned ones with their last value, running
    ones; those outside the space, infeasible or failed teach nothing."""
    found: list[tuple[Values, Sequence[float] | None]] = []
    for trial in trials:
        values = values_of(trial)
        if values is None:
            continue
        if trial.state == TrialState.RUNNING:
            found.append((values, None))
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.values:
            found.append((values, trial.values))
    return found


def _coordinate(space: Space, key: str) -> BaseDistribution:
    domain = space.domains[key]
    if isinstance(domain, Choices):
        return CategoricalDistribution(range(len(domain.values)))
    return FloatDistribution(0.0, 1.0)


def _seen(
    point: Point, kinds: Mapping[str, BaseDistribution], values: Sequence[float] | None
) -> FrozenTrial:
    state = TrialState.RUNNING if values is None else TrialState.COMPLETE
    return create_trial(state=state, params=point, distributions=dict(kinds), values=values)


def _near(asked: Point, tried: set[str], space: Space, seed: int) -> Values | None:
    """A new setting close to the asked point: steps at random, wider and wider."""
    random = np.random.default_rng([seed, len(tried)])
    for attempt in range(TRIES):
        width = 0.02 + 0.5 * attempt / TRIES
        point: Point = {}
        for key in space.coordinates:
            domain, place = space.domains[key], asked[key]
            if isinstance(domain, Choices):
                moved = random.random() < width
                point[key] = int(random.integers(len(domain.values))) if moved else place
            else:
                point[key] = float(np.clip(place + width * random.standard_normal(), 0, 1))
        values = space.decode(point)
        if space.identity(values) not in tried:
            return values
    return None


def _any(tried: set[str], space: Space, seed: int) -> Values | None:
    """Any new setting of a space that is nearly used up."""
    if space.count() is None:
        return None
    left = {
        name_of(values): values for values in space.points() if space.identity(values) not in tried
    }
    if not left:
        return None
    names = sorted(left)
    return left[names[int(np.random.default_rng([seed, len(tried)]).integers(len(names)))]]
