"""Fits that are known beforehand, by the same engine as the trials: finalists and final arms.

The parent writes them to a file; each worker takes the next one that nobody holds. A fit is held by
the lock of its folder, which ends with its process, so one that was cut off is taken up again.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.sweep.launch import LauncherConfig, launch
from eramv_lab.sweep.show import FitsShow
from eramv_lab.sweep.trial import fit_here, said_of
from eramv_lab.train.files import read_json, write_json
from eramv_lab.train.plan import Fit, clear
from eramv_lab.train.stop import Stopped

WORK = "eramv_lab.sweep.batch:work"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A fit, how it is shown, and what its plan says besides."""

    fit: Fit
    label: str
    told: Mapping[str, Any]


def run_batch(
    planned: Sequence[Planned],
    name: str,
    root: Path,
    launcher: LauncherConfig,
    show: FitsShow,
    *,
    workers: int,
    track: Path,
    **settings: Any,
) -> int:
    """Fit what has no result yet; 1 where a fit has failed."""
    open_ = [one for one in planned if one.fit.result() is None]
    if not open_:
        return 0
    plans: list[dict[str, Any]] = []
    for one in open_:
        clear(one.fit)
        (one.fit.folder / "error.txt").unlink(missing_ok=True)
        plan = one.fit.plan(str(track) if track.exists() else None)
        plans.append({"run_dir": str(one.fit.folder), "plan": plan | dict(one.told)})
    file = root / ".prepare" / f"{name}.json"
    write_json(file, {"fits": plans})
    with show:
        ends = launch(
            launcher,
            WORK,
            {"file": str(file)},
            workers=min(workers, len(open_)),
            root=root,
            watcher=show,
            **settings,
        )
    for end in ends:
        if end.error:
            show.say(f"worker {end.name} failed: {end.error}")
    return int(any(one.fit.result() is None for one in open_))


def work(worker: str, file: str) -> None:
    """Fit what is listed in a file and nobody else holds, until nothing is left."""
    listed = (read_json(Path(file)) or {}).get("fits", [])
    for one in listed:
        folder = Path(one["run_dir"])
        with _held(folder) as mine:
            ended = any((folder / name).exists() for name in ("result.json", "error.txt"))
            if not mine or ended:
                continue
            try:
                fit_here(folder, one["plan"])
            except Stopped:
                raise
            except (Exception, SystemExit) as error:  # the others are fitted all the same
                print(f"{folder} failed: {said_of(error)}", flush=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether the fit in a folder is this worker's for now."""
    if not folder.parent.is_dir():
        raise LabError(f"there is no {folder.parent}: workers need the study's own file system")
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
