"""A bridge that fails in its forward pass while a flag is there, and a worker that never lives."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from eramv_lab.errors import UserError
from eramv_lab.registry import BRIDGE
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import BridgeConfig


@dataclass(frozen=True, kw_only=True)
class FailingConfig(BridgeConfig):
    """The identity."""

    how: Literal["raise", "device", "memory", "user", "exit", "kill"] = "raise"
    """What happens."""
    flag: str = ""
    """A file; nothing happens where it is missing."""

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """It costs nothing."""
        return []

    def parameters(self, dims: Dims) -> int:
        """None."""
        return 0


@BRIDGE.register("failing", FailingConfig)
class Failing(nn.Module):
    """memory_BMD -> [B,M,D]."""

    def __init__(self, config: FailingConfig, dims: Dims) -> None:
        super().__init__()
        self.how, self.flag = config.how, config.flag

    def reset_parameters(self) -> None:
        """It has none."""

    def forward(self, memory_BMD: Tensor, *, layer: nn.Module) -> Tensor:
        if Path(self.flag).is_file():
            with Path(self.flag).open("a") as file:
                file.write(f"{self.how}\n")
            fail(self.how)
        return memory_BMD


def fail(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    errors = {
        "device": torch.OutOfMemoryError("tried to allocate 80 GiB"),
        "memory": MemoryError(),
        "user": UserError("this setting is not sound\nand never was"),
        "exit": SystemExit(3),
    }
    raise errors.get(how, RuntimeError("no luck [/here]"))


def die(**told: str) -> None:
    """A worker that is killed as it starts."""
    os.kill(os.getpid(), signal.SIGKILL)
