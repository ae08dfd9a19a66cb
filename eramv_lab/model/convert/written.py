"""A folder that is written whole or not at all: made beside its place, then put there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from eramv_lab.errors import Problem, UserError


def write_whole(out: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a new folder, and give it the name `out` once it has.

    Raises UserError where `out` is there and holds something.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(Problem(message="is not a folder; name a new one", file=str(out)))
    if out.is_dir() and any(out.iterdir()):
        raise UserError(Problem(message="is not empty; name a new folder", file=str(out)))
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fresh.chmod(0o755)
        write(fresh)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
