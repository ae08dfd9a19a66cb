"""Checkpoints on disk: written beside and renamed, plain data alone, the newest whole one wins."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eramv_lab.train.plan import CHECKPOINT, CHECKPOINTS

FORMAT = 1
KEPT = 2
"""Checkpoints that stay: the newest, and the one before it."""
KINDS: dict[str, type[Any]] = {
    **dict.fromkeys(("step", "seen"), int),
    **dict.fromkeys(("model", "optimizer", "schedule", "precision", "broken"), dict),
    **dict.fromkeys(("curves", "started"), str),
    "stints": list,
    "seconds": float,
}
"""What a state holds."""


def save(run_dir: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the state at `step` (tensors, numbers, text in dicts and lists); its file.

    A reader sees it whole or not at all. Raises OSError where it cannot be written; the earlier
    ones are then as they were.
    """
    folder = run_dir / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):  # of a write that was cut off
        left.unlink()
    path = folder / f"step-{step:08d}.pt"
    beside = folder / f".{path.name}"
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, "step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        cause = error.__context__  # torch's writer stumbles over what it could not write
        if isinstance(error, RuntimeError) and isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise
    _sync(folder)
    for old in _found(folder)[KEPT:]:
        old.unlink()
    return path


def newest(run_dir: Path, **of: Any) -> dict[str, Any] | None:
    """The newest state that is whole, on the CPU; None where there is none.

    `of`: what it must say of itself, so that it is of the same fit. Nothing is unpickled but
    tensors and plain data; a file that is damaged or of another fit is passed over with a warning.
    """
    for path in _found(run_dir / CHECKPOINTS):
        try:
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"{bad} is damaged")
            state = torch.load(path, map_location="cpu", weights_only=True)
            _check(state, of)
        except Exception as error:  # torch and zipfile raise many kinds
            warnings.warn(f"{path} is passed over: {error!r}", stacklevel=2)
            continue
        return state
    return None


def _check(state: Any, of: Mapping[str, Any]) -> None:
    """Raise ValueError where a state is not what `resume` writes, or is of another fit."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"this version reads checkpoints of format {FORMAT}")
    if wrong := [key for key, kind in KINDS.items() if not isinstance(state.get(key), kind)]:
        raise ValueError(f"{', '.join(wrong)} missing or of another kind")
    if other := [key for key, value in of.items() if state.get(key) != value]:
        raise ValueError(f"it is of another fit: {', '.join(other)} differ")


def _found(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name))
    return sorted((path for path in found if path.is_file()), reverse=True)


def _sync(folder: Path) -> None:
    """Let the renaming reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
