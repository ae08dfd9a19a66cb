"""Folders that appear whole or not at all: filled under another name beside their place."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eramv_lab.errors import Problem, UserError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that gets the name `out` when the block ends well.

    Raises UserError where `out` is there and holds something: what a user has is never replaced.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(Problem(message="is not a folder; name a new one", file=str(out)))
    if out.is_dir() and any(out.iterdir()):
        raise UserError(Problem(message="is not empty; name a new folder", file=str(out)))
    with _beside(out) as fresh:
        yield fresh


@contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `target` when the block ends well.

    What stood at `target` is removed; when the block fails, it stays and the new folder goes.
    Call it under `locked(target)`: what an earlier process was killed at is then removed too.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        if left.is_dir():
            shutil.rmtree(left)
    with _beside(target) as fresh:
        yield fresh
        if target.exists():
            shutil.rmtree(target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder that is called `target`, free or empty by then, when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
