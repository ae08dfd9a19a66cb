"""FSDP2: weights and optimizer sharded over the devices."""

from __future__ import annotations

from typing import Any

from torch.distributed.fsdp import fully_shard


def shard(model: Any, mesh: Any) -> None:
    """Shard a composed model over the data-parallel mesh: a group a decoder layer, one the rest.

    A band whose bridge is one for all layers calls its first layer's parts from outside, so such
    a model is one group.
    """
    if model.shared_bridge is None:
        for layer in model.language_model.layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
