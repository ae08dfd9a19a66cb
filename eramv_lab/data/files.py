"""Files that appear whole or not at all, made by one process while the others wait."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
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


@contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well.

    What stood at `target` is removed; when the block fails, it stays and the new folder goes.
    Call it under `locked(target)`: what an earlier process was killed at is then removed too.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        if left.is_dir():
            shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
