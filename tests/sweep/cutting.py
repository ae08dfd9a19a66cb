"""Cutting a sweep off amid its trials, and what it must have come to after that."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import load_file

from eramv_lab.sweep.store import cut_off
from eramv_lab.train.files import read_json
from eramv_lab.train.plan import checkpoint_steps
from tests.sweep import tiny

STEPS = 60
TRIALS = 6
PATIENCE_S = 240.0


def write_longer(folder: Path, data: Path, **changes: Any) -> Path:
    """A sweep whose trials take long enough to be cut off."""
    train = tiny.plain()["train"] | {"steps": STEPS, "validate_every": 20, "checkpoint_every": 5}
    return tiny.write(folder, data, train=train, trials=TRIALS, **changes)


def amid(root: Path) -> list[Path]:
    """Folders of trials that are being trained and have a checkpoint."""
    found = [path.parent for path in root.glob("trials/*/checkpoints")]
    return [f for f in found if 10 <= max(checkpoint_steps(f), default=0) < STEPS - 20]


def workers_at(folder: Path) -> list[int]:
    """Processes that write the log of a trial: those that train it."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "fd" / "1").readlink() == folder / "log.txt":
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(process: subprocess.Popen[str], found: Callable[[], list[Path]]) -> Path:
    """The first path that is found while the process runs."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()[0]}")
        if paths := found():
            return paths[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"nothing came: {process.communicate()[0]}")


def ended(process: subprocess.Popen[str]) -> str:
    """What it said, once it has ended well."""
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


def check(root: Path, whole: Path | None = None, url: str | None = None) -> list[FrozenTrial]:
    """Every trial complete, trained once, nothing left open; the results are those of `whole`."""
    trials = tiny.trials(root, url)
    assert all(trial.state.is_finished() for trial in trials)
    living = [trial for trial in trials if not cut_off(trial)]
    assert [t.state for t in living] == [TrialState.COMPLETE] * TRIALS
    mine = results_of(root)
    assert len(mine) == TRIALS
    for folder in mine.values():
        began = tiny.stints(folder, STEPS)
        assert began[0] == 0 and sorted(set(began)) == began
    its = results_of(whole) if whole else {}
    assert mine.keys() == its.keys() or not whole
    for name, other in its.items():
        pair = (mine[name], other)
        one, two = (load_file(folder / "model.safetensors") for folder in pair)
        assert all(torch.equal(one[key], two[key]) for key in one), name
        row, its_row = ((read_json(folder / "result.json") or {})["row"] for folder in pair)
        assert (row["accuracy"], row["loss"]) == (its_row["accuracy"], its_row["loss"])
        answers = [(folder / "predictions.jsonl").read_text() for folder in pair]
        assert answers[0] == answers[1]
    parent, below = tiny.tracked(root)
    runs = [run for run in below if run.data.tags["eramv.kind"] == "trial"]
    assert {run.info.status for run in [parent, *runs]} == {"FINISHED"}
    assert len(runs) == TRIALS
    assert "RUNNING" not in {run.info.status for run in below}
    return trials


def results_of(root: Path) -> dict[str, Path]:
    """Folders of the trials that have finished, by name."""
    return {path.parent.name: path.parent for path in root.glob("trials/*/result.json")}
