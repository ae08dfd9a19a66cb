"""One process makes a file while the others wait; and a bar that says how long."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of `target` (a file `.<name>.lock` beside it); waits for who holds it.

    The lock belongs to the open file, so it ends with its process, however that ends.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def progress(
    items: Iterable[Item], total: int, label: str, *, shown: bool = True
) -> Iterator[Item]:
    """`items`, with a bar and the time left on standard error (nothing where it is no terminal)."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    ) as bar:
        yield from bar.track(items, total=total, description=label)
