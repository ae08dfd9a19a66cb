"""Samplers and pruners by name: Optuna's own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from eramv_lab.errors import Problem
from eramv_lab.recipe.parse import choice
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


PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "None": None}
OURS = ("seed",)
"""Arguments that no file gives."""


def check_options(what: str, named: Named) -> Iterator[Problem]:
    """Problems: arguments that Optuna's class does not take, or not of this type."""
    if named.type not in CLASSES:
        for option in named.options:
            message = f"{named.type} takes no arguments"
            yield Problem(message=message, key=f"{what}.{option}")
        return
    kind = _class(named.type)
    parameters = inspect.signature(kind).parameters
    for name, one in parameters.items():
        if one.default is inspect.Parameter.empty and name not in named.options:
            message = f"missing key {name!r}, an argument of Optuna's {kind.__name__}"
            yield Problem(message=message, key=what)
    taken = {
        name: hint
        for name, one in parameters.items()
        if name not in OURS and (hint := _plain_type(one.annotation)) is not None
    }
    for option, value in named.options.items():
        key = f"{what}.{option}"
        if option not in taken:
            message = f"Optuna's {kind.__name__} has no argument {option!r} that a file could give"
            yield choice(message, option, taken, key)
            continue
        try:
            TypeAdapter(taken[option], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            said = " or ".join(dict.fromkeys(one["msg"] for one in error.errors()))
            message = f"{said.replace('Input ', '')}, found {value!r}"
            yield Problem(message=message, key=key)


def _plain_type(written: Any) -> Any:
    """An argument's type, where it is made of plain words and numbers; else None."""
    if not isinstance(written, str):
        written = inspect.formatannotation(written)
    try:
        return eval(written, {"__builtins__": {}}, PLAIN)  # words of Optuna's source
    except Exception:  # a type of its own, a function
        return None


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
    return _class(name)(**options)


def _class(name: str) -> Any:
    module, _, kind = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), kind)
