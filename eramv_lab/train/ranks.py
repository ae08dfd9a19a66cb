"""One fit in several processes: who this one is, who started them, what they tell one another."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from eramv_lab.errors import UserError

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment that say who a process is, as torchrun sets them."""
PORTS = (20_000, 32_000)
"""Below those that systems give to outgoing connections."""
PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which makes data, bases and features."""


def rank() -> int:
    """Number of this process among those of the fit; the first one writes."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Processes of the fit."""
    return int(os.environ.get("WORLD_SIZE", 1))


def started_outside() -> bool:
    """Whether torchrun or srun has started this process as one of several, or as a rank at all."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def environment(number: int, count: int, port: int) -> dict[str, str]:
    """Variables of process `number` of `count` on this machine."""
    values = (number, number, 0, count, "127.0.0.1", port)
    return dict(zip(NAMES, map(str, values), strict=True))


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no connection is given by chance."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


@contextmanager
def joined(asked: int) -> Iterator[None]:
    """Meet the other processes that torchrun or srun has started, and part from them.

    Raises UserError where there are not as many as `asked`, the recipe's devices times nodes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _from_slurm()
    if world() != asked:
        if rank() > 0:  # the first one says it
            raise SystemExit(UserError.exit_code)
        raise UserError(
            f"the recipe asks for {asked} processes (trainer.devices x trainer.nodes), "
            f"{world()} were started"
        )
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield
    # only where all went well: after an exception the others may not be there to meet
    distributed.barrier()
    distributed.destroy_process_group()


def tell(value: Any) -> Any:
    """What the first process says, in every process (plain data)."""
    from torch import distributed

    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def gather(value: Any) -> list[Any]:
    """What each process says, in every process (plain data); this one's alone outside a group."""
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def _from_slurm() -> None:
    """torchrun's variables from those of srun."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    slurm = SLURMEnvironment(auto_requeue=False)
    told = os.environ
    values = (told["SLURM_PROCID"], told["SLURM_LOCALID"], told["SLURM_NODEID"])
    values += (told["SLURM_STEP_NUM_TASKS"], slurm.main_address, slurm.main_port)
    for name, value in zip(NAMES, values, strict=True):
        told.setdefault(name, str(value))
