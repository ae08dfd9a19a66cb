"""What a fit tells while it runs: its curves, and once a second how far it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from eramv_lab.track.curves import CurveWriter
from eramv_lab.train.files import write_json

TRAIN_SHARE = 0.8
"""Share of a fit's time that training is taken for, until it is known better."""


class Progress:
    """`progress.json` of a fit, written at most once a second, always whole; nowhere if None."""

    def __init__(
        self, folder: Path | None, every_s: float = 1.0, began: float | None = None
    ) -> None:
        self.file, self.every_s = folder and folder / "progress.json", every_s
        self.state: dict[str, Any] = {"phase": "start", "done": 0.0}
        self.began, self.first_step_s = began or time.perf_counter(), 0.0
        """When it began, and the seconds from there to the first step of training."""
        self._written = 0.0

    def tell(self, *, now: bool = False, **state: Any) -> None:
        """Update what is known; `done` is the share of the whole fit."""
        now = now or state.get("phase", self.state["phase"]) != self.state["phase"]
        self.state |= state
        if self.file and (now or self.due()):
            write_json(self.file, self.state)
            self._written = time.monotonic()

    def due(self) -> bool:
        """Whether the next word would be written."""
        return time.monotonic() - self._written >= self.every_s


class Report(Callback):
    """Tells a `Progress` of the steps; the loss is only fetched when it will be written."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before each batch."""
        if not self.progress.first_step_s:
            self.progress.first_step_s = time.perf_counter() - self.progress.began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each batch."""
        if trainer.is_global_zero and self.progress.due():
            step, steps = trainer.global_step, trainer.max_steps
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            done = TRAIN_SHARE * step / max(1, steps)
            self.progress.tell(phase="train", step=step, steps=steps, loss=loss, done=done)


class Curves(Logger):
    """Lightning's metrics as points of curves, in the fit's file and in MLflow."""

    def __init__(self, writer: CurveWriter) -> None:
        super().__init__()
        self.writer = writer

    @property
    def name(self) -> str:
        """Lightning's name of the logger."""
        return "curves"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The recipe lies beside the curves."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One point of each curve; Lightning's own counters are left out."""
        self.writer.log(step or 0, {k: float(v) for k, v in metrics.items() if "/" in k})
