"""Training that somebody else may end early: after each validation a judge is asked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from eramv_lab.train.callbacks import Progress

Judge = Callable[[int, Mapping[str, float]], bool]
"""Told the step and what validation found; true ends the training."""


class Pruned(Exception):
    """The judge has ended the training: no error, and no result either."""

    def __init__(self, step: int, found: Mapping[str, float], first_step_s: float) -> None:
        super().__init__(f"pruned at step {step}")
        self.step, self.found, self.first_step_s = step, dict(found), first_step_s


def judge_of(told: Mapping[str, Any] | None) -> Judge | None:
    """The judge that a plan names: `{"target": "module:function", "args": {...}}`.

    The function is called with the arguments, the step and what was found.
    """
    if not told:
        return None
    module, _, name = told["target"].partition(":")
    target = getattr(importlib.import_module(module), name)
    args = dict(told["args"])
    return lambda step, found: bool(target(args, step, found))


class Judged(Callback):
    """Asks the judge; of several processes the first one asks, and all of them end together."""

    def __init__(self, judge: Judge | None, progress: Progress) -> None:
        self.judge, self.progress = judge, progress

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After each look at the held-out split but the one behind the last step."""
        step = trainer.global_step
        if self.judge is None or step >= trainer.max_steps:
            return
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        ends = self.judge(step, found) if trainer.is_global_zero else False
        if trainer.strategy.reduce_boolean_decision(ends, all=False):
            raise Pruned(step, found, self.progress.first_step_s)
