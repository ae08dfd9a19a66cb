"""Muon for the matrices, AdamW for the rest, one schedule over both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Optimizers:
    """The two optimisers of a small model, stepped and scaled together.

    Matrices (2-D weights) that `is_matrix` takes by name go to Muon, all else to AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        is_matrix: Callable[[str], bool],
        *,
        muon: float,
        adamw: float,
        decay: float = 0.0,
    ) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and is_matrix(name)]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        self.parameters = [p for _, p in named]
        self.both: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon, weight_decay=decay),
            torch.optim.AdamW(rest, lr=adamw, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
        ]
        self.rates = [muon, adamw]

    def scale(self, factor: float) -> None:
        """Set both learning rates to `factor` times their own."""
        for optimizer, rate in zip(self.both, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def step(self, clip: float) -> None:
        """Clip the gradients' norm, step, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer in self.both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def warm_flat_decay(step: int, steps: int, *, warm: int, decay: float, last: float) -> float:
    """Factor of the learning rate: `warm` steps up, flat, then linear to `last`.

    `decay` is the share of the steps after which it falls.
    """
    falls = decay * steps
    if step < warm:
        return (step + 1) / warm
    if step < falls:
        return 1.0
    return 1.0 - (1.0 - last) * (step - falls) / max(steps - falls, 1)
