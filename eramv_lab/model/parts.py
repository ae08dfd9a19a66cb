"""The components of a model, each built from a random stream of its own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from eramv_lab.model.step import Band
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.registry import SLOTS
from eramv_lab.shapes import Dims


@contextmanager
def seeded(seed: int, path: str) -> Iterator[None]:
    """Random numbers of one component: they depend on (seed, path) and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield


def build_part(slot: str, config: Any, dims: Dims, seed: int, path: str) -> Any:
    """The component of `config`, built from its own stream; None for none."""
    if config is None:
        return None
    with seeded(seed, path):
        return SLOTS[slot].of(config).factory(config, dims)


def build_band(spec: ModelSpec, seed: int, layer: int) -> Band:
    """What decoder layer `layer` of the band has of its own; a bridge unless all share one."""
    dims, own = spec.dims(), spec.bridged(layer) and spec.bridge.share == "layer"
    heads = dataclasses.replace(dims, language=spec.sharing.heads_of(dims.language))
    return Band(
        spec.fusion,
        build_part("sharing", spec.sharing, dims, seed, f"sharing.{layer}"),
        build_part("bridge", spec.bridge if own else None, dims, seed, f"bridge.{layer}"),
        build_part("fusion", spec.fusion, heads, seed, f"fusion.{layer}"),
        shared_query=spec.sharing.shared_query,
        ahead=spec.bridge is not None and spec.bridge.ahead,
    )
