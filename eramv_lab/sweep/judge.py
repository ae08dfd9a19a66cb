"""Whether a trial is worth its last steps: reports a validation to Optuna and asks its pruner."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import optuna

from eramv_lab.errors import LabError
from eramv_lab.sweep.config import Heartbeat, Named
from eramv_lab.sweep.samplers import make_pruner
from eramv_lab.sweep.store import TROUBLE, open_storage

WATCHED = {"accuracy": "val/accuracy", "loss": "val/loss"}
"""What is looked at while a trial trains, by the goal of the study."""


def judge(told: Mapping[str, Any], step: int, found: Mapping[str, float]) -> bool:
    """Whether to end the trial after `step`; called in the process that trains it.

    `told`: `url`, `study`, `trial` (Optuna's id), `metric` (the goal), `pruner` (type, options),
    `ends`: false for one that is only reported, for others to be held against.
    """
    try:
        study = _study(told["url"], told["study"])
        study.pruner = make_pruner(
            Named(type=told["pruner"]["type"], options=told["pruner"]["options"])
        )
        trial = optuna.trial.Trial(study, told["trial"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed trial looks at some steps a second time
            trial.report(found[WATCHED[told["metric"]]], step)
        return told["ends"] and trial.should_prune()
    except (LabError, *TROUBLE) as error:  # as where it is locked for long
        warnings.warn(f"not judged at step {step}: {error.__cause__ or error}", stacklevel=2)
        return False


@cache
def _study(url: str, name: str) -> optuna.Study:
    storage = open_storage(url, Heartbeat())
    return optuna.load_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
    )
