"""Samplers and pruners by name: Optuna's own."""

from __future__ import annotations

import importlib
from typing import Any

from eramv_lab.sweep.config import Named

CLASSES = {
    "gp": "optuna.samplers:GPSampler",
    "tpe": "optuna.samplers:TPESampler",
    "random": "optuna.samplers:RandomSampler",
    "nsga2": "optuna.samplers:NSGAIISampler",
    "median": "optuna.pruners:MedianPruner",
    "percentile": "optuna.pruners:PercentilePruner",
    "successive_halving": "optuna.pruners:SuccessiveHalvingPruner",
    "hyperband": "optuna.pruners:HyperbandPruner",
}
SAMPLERS = ("auto", "gp", "tpe", "random", "grid", "nsga2")
"""`auto`: a Gaussian process up to `MANY` trials, TPE beyond; `grid`: every point in turn."""
PRUNERS = ("none", "median", "percentile", "successive_halving", "hyperband")
MANY = 100
STARTUP = 8
"""Trials of a Gaussian process that are drawn at random first, at most a quarter of all."""


def class_of(name: str) -> str | None:
    """`module:class` of a sampler or pruner; None for those that are not Optuna's."""
    return CLASSES.get(name)


def chosen(sampler: Named, trials: int) -> str:
    """The sampler's name, `auto` decided."""
    if sampler.type != "auto":
        return sampler.type
    return "gp" if trials <= MANY else "tpe"


def make_sampler(sampler: Named, trials: int, seed: int) -> Any:
    """Optuna's sampler; for `grid`, which needs none, a random one."""
    name = chosen(sampler, trials)
    options = dict(sampler.options)
    if name == "gp":
        options.setdefault("n_startup_trials", max(2, min(STARTUP, trials // 4)))
        options.setdefault("warn_independent_sampling", False)
    return _make("random" if name == "grid" else name, seed=seed, **options)


def make_pruner(pruner: Named) -> Any:
    """Optuna's pruner; one that never prunes for `none`."""
    if pruner.type == "none":
        return importlib.import_module("optuna.pruners").NopPruner()
    return _make(pruner.type, **pruner.options)


def _make(name: str, **options: Any) -> Any:
    module, _, kind = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), kind)(**options)
