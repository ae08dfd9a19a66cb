"""Exact resume: what a fit must remember to go on as if it had never stopped, saved as it trains.

Training is one iteration over a loader that can begin at any batch (`LabData.go_to`), each step
seeds its own random stream, and curves are cut back to where the checkpoint left them. So the
state is: what learns, the optimizer, its schedule, and the step. Lightning's own checkpoints hold
the state of its nested loops, which it cannot always bring back in the middle of an epoch.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from eramv_lab.data.module import LabData
from eramv_lab.errors import LabError
from eramv_lab.track.curves import CurveWriter
from eramv_lab.train import checkpoint, ranks
from eramv_lab.train.plan import checkpoint_steps
from eramv_lab.train.stop import Stopped, StopSignal


class Resume(Callback):
    """Puts back `state`, if there is one, and saves a new one every so many steps.

    `every` steps, or 0: only when a signal stops the fit. At the end of the training the state is
    saved too, so that an evaluation that is cut off begins again without training. With several
    processes all of them take part and the first one writes.
    """

    def __init__(
        self,
        folder: Path,
        data: LabData,
        writer: CurveWriter | None,
        state: Mapping[str, Any] | None,
        *,
        every: int,
        stop: StopSignal,
        about: Mapping[str, Any],
    ) -> None:
        self.folder, self.data, self.writer, self.state = folder, data, writer, state
        self.every, self.stop, self.about = every, stop, about
        self.saved = state["step"] if state else -1
        self._began = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the state back; optimizer and schedule are there by now."""
        if self.state is not None:
            restore(trainer, pl_module, self.state)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has taken SIGTERM by now; take it again."""
        self.stop.listen()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps, the validation of the last one included."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        due = bool(self.every) and step > 0 and step % self.every == 0
        asked = trainer.strategy.reduce_boolean_decision(bool(self.stop.asked), all=False)
        if (due or asked) and step != self.saved:
            self.save(trainer, pl_module)
        if asked:
            raise Stopped(self.stop.asked or signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last step."""
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint; every process calls this. Raises LabError where it cannot be."""
        self.saved = trainer.global_step
        state = capture(trainer, pl_module)
        broken: dict[str, str] = {}
        for part in ranks.gather(self.data.broken):
            broken |= part
        if self.writer is None:  # not the first process
            return
        state |= {
            **self.about,
            "curves": self.writer.text(),
            "broken": broken,
            "seen": self.data.seen,
            "seconds": time.monotonic() - self._began + (self.state or {}).get("seconds", 0.0),
        }
        try:
            checkpoint.save(self.folder, self.saved, state)
        except OSError as error:
            raise LabError(
                f"the checkpoint of step {self.saved} cannot be written: {error}; "
                + left(self.folder)
            ) from error


def left(folder: Path) -> str:
    """What there is to go on from, as a sentence for a message."""
    steps = checkpoint_steps(folder)
    if not steps:
        return f"there is no earlier one in {folder}; the same command begins anew"
    return f"that of step {steps[0]} is whole; the same command goes on from there"


def capture(trainer: Trainer, lit: LightningModule) -> dict[str, Any]:
    """Step, what learns, optimizer and schedule, as plain data on the CPU."""
    optimizer = trainer.optimizers[0]
    state: dict[str, Any] = {
        "schedule": plain(trainer.lr_scheduler_configs[0].scheduler.state_dict()),
        "precision": plain(trainer.precision_plugin.state_dict()),
        "step": trainer.global_step,
    }
    if isinstance(trainer.strategy, ModelParallelStrategy):
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        learnt = {name for name, p in lit.named_parameters() if p.requires_grad}
        found = get_model_state_dict(lit, options=whole)
        state["model"] = {name: value for name, value in found.items() if name in learnt}
        state["optimizer"] = get_optimizer_state_dict(lit, optimizer, options=whole)
        return state
    state["model"] = {n: p.detach().cpu() for n, p in lit.named_parameters() if p.requires_grad}
    state["optimizer"] = optimizer.state_dict()
    return state


def restore(trainer: Trainer, lit: LightningModule, state: Mapping[str, Any]) -> None:
    """Put a captured state into a fit that is about to begin its first batch."""
    load_weights(lit, state)
    optimizer = trainer.optimizers[0]
    if isinstance(trainer.strategy, ModelParallelStrategy):
        whole = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(lit, optimizer, dict(state["optimizer"]), options=whole)
    else:
        optimizer.load_state_dict(dict(state["optimizer"]))
    trainer.lr_scheduler_configs[0].scheduler.load_state_dict(dict(state["schedule"]))
    trainer.precision_plugin.load_state_dict(dict(state["precision"]))
    # the counters that steps, curves and validation go by; those of an epoch begin at nought
    loop, step = trainer.fit_loop.epoch_loop, int(state["step"])
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.automatic_optimization.optim_progress.optimizer.step.total.ready = step
    loop.batch_progress.total.ready = step * trainer.accumulate_grad_batches
    loop._batches_that_stepped = step


@torch.no_grad()
def load_weights(lit: nn.Module, state: Mapping[str, Any]) -> None:
    """Fill what learns. Raises LabError where the checkpoint is of another model."""
    own = {name: p for name, p in lit.named_parameters() if p.requires_grad}
    saved: Mapping[str, Tensor] = state["model"]
    if wrong := sorted(own.keys() ^ saved.keys()):
        raise LabError(f"the checkpoint is of another model: {', '.join(wrong[:5])}, ...")
    for name, parameter in own.items():
        value = saved[name]
        if hasattr(parameter, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            mesh, places = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
            value = distribute_tensor(value.to(parameter.device), mesh, places)
        parameter.copy_(value)


def plain(value: Any) -> Any:
    """Dicts, lists, numbers, text and tensors as they are; anything else must not be there."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    raise TypeError(f"{type(value).__name__} does not belong in a checkpoint")
