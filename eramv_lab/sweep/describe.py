"""A sweep as `check` tells it: what it may cost, how many settings there are, what comes first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eramv_lab.cost.show import facts
from eramv_lab.recipe.load import read_recipe
from eramv_lab.sweep.domains import Choices, Domain
from eramv_lab.sweep.load import AROUND, Sweep, load_sweep
from eramv_lab.sweep.pricing import Limit, costs_of_arm
from eramv_lab.sweep.samplers import chosen

UNITS = {
    "prefill": (1e12, "TFLOPs"),
    "training": (1e15, "PFLOPs"),
    "parameters": (1e6, "million"),
    "kv": (2.0**20, "MiB"),
}


def is_sweep(path: Path, overrides: list[str] | None) -> bool:
    """Whether a file says what to search. Raises UserError where it cannot be read."""
    return "search" in read_recipe(path, overrides or ()).shared.value


def sweep_lines(path: Path, overrides: list[str] | None) -> Iterator[str]:
    """Lines about a sweep. Raises as `load_sweep`."""
    sweep = load_sweep(path, overrides or ())
    around = sweep.arm(AROUND, {})
    yield f"around [{around.hash}]  {facts(around)}"
    for limit in sweep.limits:
        yield f"budget: {limit.name} {amount(limit.name, limit.value)} ({limit.said})"
    if not sweep.limits:
        yield "budget: none"
    for key, domain in sweep.domains.items():
        yield f"search: {key}: {_shown(domain)}"
    points = sweep.space.count()
    yield f"settings: {'not counted' if points is None else points}"
    for given in sweep.given:
        arm = sweep.arm(given.name, given.changes)
        where = "" if given.values is not None else ", outside the search"
        yield f"first: {given.name} [{arm.hash}]  {facts(arm)}{where}"
        costs = costs_of_arm(arm)
        shares = [f"{costs[one.name] / one.value:.3g} of the {one.name}" for one in sweep.limits]
        if shares:
            yield f"    uses {', '.join(shares)}{_dear(costs, sweep.limits)}"
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in sweep.goals)
    yield f"goal: {goals}; sampler {_sampler(sweep)}, pruner {sweep.pruner.type}"
    seeds = ", ".join(map(str, sweep.seeds))
    settings = sweep.settings
    yield f"ok: {path}, {settings.trials} trials, {settings.finalists} finalist(s), seeds {seeds}"


def amount(name: str, value: float) -> str:
    """A budget or a cost in its unit."""
    unit, word = UNITS[name]
    return f"{value / unit:.4g} {word}"


def _sampler(sweep: Sweep) -> str:
    return chosen(sweep.sampler, sweep.settings.trials)


def _dear(costs: dict[str, float], limits: tuple[Limit, ...]) -> str:
    over = any(costs[one.name] > one.value for one in limits)
    return ", which is too dear: it is not trained" if over else ""


def _shown(domain: Domain) -> str:
    if isinstance(domain, Choices):
        return " | ".join(domain.words)
    parts = [f"{domain.low:g} to {domain.high:g}"]
    parts += [f"in steps of {domain.step:g}"] if domain.step and domain.step != 1 else []
    parts += ["by its logarithm"] if domain.log else []
    parts += ["the largest that fits"] if domain.largest else []
    return ", ".join(parts)
