"""One optimizer over two: Muon for the matrices, AdamW for the rest, one schedule for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from eramv_lab.train.roles import is_difference

MATRIX_ROLES = frozenset({"connector", "language", "bridge", "band"})
"""Roles whose matrices Muon turns; a tower keeps the optimizer it was made with."""

Shape = Literal["cosine", "linear", "constant"]


class Chained(Optimizer):
    """Several optimizers over disjoint parameters behind the face of one.

    Groups and state are the parts' own objects, so that a schedule, a checkpoint and a clipper
    see a single ordinary optimizer.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._link()

    def _link(self) -> None:
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups = self.param_groups[first:last]
            part.state = self.state
            first = last

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Evaluate `closure` once, then let every part step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Take up a saved state; the parts follow."""
        super().load_state_dict(dict(state_dict))
        self._link()


def treatment(
    name: str, role: str, parameter: Tensor
) -> Literal["matrix", "decay", "plain", "lora", "gate"]:
    """How a parameter is trained: by Muon (a hidden matrix), by AdamW with or without decay.

    Vectors (norms, biases), embeddings and heads are plain, and so is what is no weight of a map:
    rows of a table that a module holds by a name of its own, such as learned queries. A gate is the
    scale of a matrix that starts at zero, and moves at the matrices' rate: at that of norms it
    would stay nearly closed. The halves of a low-rank difference are AdamW's, with decay: Muon
    makes all directions of a matrix's step equally long, and here the matrix that counts is the
    halves' product.
    """
    if is_difference(name):
        return "lora"
    module, own = name.split(".")[-2:] if "." in name else (name, name)
    if module == "gate" and parameter.ndim < 2:
        return "gate"
    if parameter.ndim < 2 or "embed" in module or module == "lm_head" or not _is_map(own):
        return "plain"
    return "matrix" if role in MATRIX_ROLES and parameter.ndim == 2 else "decay"


def _is_map(name: str) -> bool:
    """Whether a module's own parameter, called `name`, is applied as a map."""
    return name.endswith("weight")


def build_optimizer(
    trainable: Iterable[tuple[str, str, nn.Parameter]],
    *,
    name: Literal["muon", "adamw"] = "muon",
    lr: float,
    muon_lr: float,
    lora_lr: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
) -> Chained:
    """The optimizer of `(name, role, parameter)` triples, one group per role and treatment.

    `lr` is AdamW's rate, `lora_lr` by role that of low-rank differences where it is another,
    `muon_lr` Muon's and, beside it, that of gates. Groups carry `role` and `kind` for the logs.
    """
    groups: dict[tuple[str, str], list[nn.Parameter]] = {}
    for path, role, parameter in trainable:
        kind = treatment(path, role, parameter)
        if kind == "matrix":
            kind = "muon" if name == "muon" else "decay"
        groups.setdefault((kind, role), []).append(parameter)
    muon: list[dict[str, Any]] = []
    adamw: list[dict[str, Any]] = []
    for (kind, role), parameters in groups.items():
        group: dict[str, Any] = {"params": parameters, "role": role, "kind": kind}
        group["weight_decay"] = 0.0 if kind in ("plain", "gate") else weight_decay
        if kind == "gate" and name == "muon":
            group["lr"] = muon_lr
        if kind == "lora":
            group["lr"] = (lora_lr or {}).get(role, lr)
        (muon if kind == "muon" else adamw).append(group)
    parts: list[Optimizer] = []
    if muon:
        parts.append(Muon(muon, lr=muon_lr, weight_decay=weight_decay))
    if adamw:
        parts.append(AdamW(adamw, lr=lr, betas=betas, weight_decay=weight_decay))
    return Chained(parts)


def schedule(
    *, steps: int, warmup: int, shape: Shape = "cosine", floor: float = 0.0
) -> Callable[[int], float]:
    """Factor of the learning rates at a step: linear warm-up, then `shape` down to `floor`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        if shape == "constant":
            return 1.0
        left = 1 - done if shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return floor + (1 - floor) * left

    return factor
