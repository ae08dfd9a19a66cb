"""FSDP2: weights and optimizer sharded over the devices, and made whole again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from eramv_lab.train.module import LitArm


def shard(model: Any, mesh: Any) -> None:
    """Shard a composed model over the data-parallel mesh: a group a decoder layer, one the rest.

    A band whose bridge is one for all layers calls its first layer's parts from outside, so such
    a model is one group.
    """
    if model.shared_bridge is None:
        for layer in model.language_model.layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole_model(lit: LitArm, trainer: Trainer) -> LitArm:
    """The trained arm with whole weights, for the first process; every process calls it.

    An arm that was not sharded comes back as it is.
    """
    from lightning.pytorch.strategies import ModelParallelStrategy

    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return lit
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = get_model_state_dict(lit, options=options)
    if not trainer.is_global_zero:
        return lit
    fresh = lit.anew()
    nn.Module.load_state_dict(fresh, found)
    return fresh
