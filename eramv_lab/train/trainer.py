"""Lightning's Trainer as a recipe says: devices, precision, how often it looks and saves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from eramv_lab.track.curves import CurveWriter
from eramv_lab.train import ranks
from eramv_lab.train.callbacks import Curves


class Started(LightningEnvironment):
    """The processes of a fit, which were all started before Lightning; who they are stays known."""

    def teardown(self) -> None:
        """Lightning would forget the number of processes here."""


def make_trainer(
    arm: Mapping[str, Any], writer: CurveWriter | None = None, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """The Trainer of an arm; curves, progress and checkpoints are ours, nothing is printed.

    Where the arm asks for several devices, its processes have been started already: by the pool,
    torchrun or srun.
    """
    train, asked = arm["train"], arm["trainer"]
    several = ranks.world() > 1
    strategy: Any = asked["strategy"] if several else "auto"
    if several and strategy == "auto":
        strategy = "ddp"
    elif strategy == "fsdp2":
        strategy = ModelParallelStrategy(
            data_parallel_size=ranks.world(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
    every = train["validate_every"] * train["accumulate"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator=asked["accelerator"],
            devices=ranks.world() // asked["nodes"] if several else 1,
            num_nodes=asked["nodes"] if several else 1,
            strategy=strategy,
            precision=asked["precision"],
            plugins=[Started()],
            max_steps=train["steps"],
            max_epochs=-1,
            gradient_clip_val=train["clip"],
            accumulate_grad_batches=train["accumulate"],
            val_check_interval=every or None,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if every else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=train["log_every"],
            logger=Curves(writer) if writer else False,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
