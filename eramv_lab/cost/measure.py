"""The third witness: latency and peak memory of a prefill, measured where the model stands."""

from __future__ import annotations

import statistics
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eramv_lab.cost.count import inputs

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A prefill of `batch` samples, logits of the last row alone, cache filled."""

    latency_ms: float
    """Median over the runs."""
    latency_spread_ms: float
    """Distance between the quartiles."""
    peak_mib: float
    """Weights and the most that was allocated beside them at one time: CUDA's own count of this
    process; on the CPU the tensors alive between operations (what a kernel takes inside is not
    seen)."""
    device: str
    dtype: str
    batch: int
    runs: int


@torch.no_grad()
def measure(model: Any, text_tokens: int = 64, batch: int = 1, runs: int = 20) -> Measurement:
    """Latency and peak memory of a prefill of the built `model`, on its device and in its dtype.

    Warm-up runs come first. Raises ValueError for fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"runs {runs}: expected >= 1")
    weight: torch.Tensor = model.lm_head.weight
    given = inputs(model, text_tokens, batch, dtype=weight.dtype)
    training = model.training
    model.eval()

    def prefill() -> None:
        model(**given, logits_to_keep=1, use_cache=True)
        if weight.device.type == "cuda":
            torch.cuda.synchronize(weight.device)

    try:
        for _ in range(WARM_UP):
            prefill()
        seconds = [_timed(prefill) for _ in range(runs)]
        peak = _peak_bytes(prefill, model, weight.device)
    finally:
        model.train(training)
    quartiles = statistics.quantiles(seconds, n=4) if runs > 1 else [seconds[0]] * 3
    return Measurement(
        latency_ms=statistics.median(seconds) * 1e3,
        latency_spread_ms=(quartiles[2] - quartiles[0]) * 1e3,
        peak_mib=peak / 2**20,
        device=_name(weight.device),
        dtype=str(weight.dtype).removeprefix("torch."),
        batch=batch,
        runs=runs,
    )


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak_bytes(work: Callable[[], None], model: Any, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    resident = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    with _Alive() as alive:
        work()
    return sum(resident.values()) + alive.most


class _Alive(TorchDispatchMode):
    """Bytes of the storages that operations have made and nobody has dropped yet."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it made (views and in-place results are known)."""
        known = {id(storage) for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            key = id(storage)
            if key not in self.sizes and key not in known:
                self.sizes[key] = storage.nbytes()
                self.now += self.sizes[key]
                weakref.finalize(storage, self._drop, key).atexit = False
        self.most = max(self.most, self.now)
        return out

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
