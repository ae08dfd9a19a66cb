"""One component of a model, built from a random stream of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

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
