"""The real worker by every engine, killed; and the same line twice at once against one server."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.sweep import tiny
from tests.sweep.cutting import TRIALS, amid, check, ended, wait_for, workers_at, write_longer

pytestmark = pytest.mark.slow
ENGINES = [
    pytest.param(
        {"type": "slurm", "cluster": "local"},
        marks=pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit"),
        id="submitit",
    ),
    pytest.param(
        "ray", marks=pytest.mark.skipif(not find_spec("ray"), reason="needs ray"), id="ray"
    ),
]


@pytest.mark.parametrize("launcher", ENGINES)
def test_a_killed_worker(launcher: Any, tmp_path: Path, tiny_data: Path) -> None:
    file = write_longer(tmp_path, tiny_data, launcher=launcher)
    root = tmp_path / "runs" / "tiny"
    process = tiny.begin(file, "--workers", "2")
    cut = wait_for(process, lambda: amid(root))
    (worker,) = workers_at(cut)
    os.kill(worker, signal.SIGKILL)
    said = ended(process)
    trials = check(root)
    (last,) = (t for t in trials if t.user_attrs.get("first") is not None)
    assert last.user_attrs["folder"] == str(cut.relative_to(root)), said
    assert last.user_attrs["resumed"] == 1 and last.user_attrs["lives"] == 1
    assert "was lost" in said


def test_the_same_line_twice_at_once(postgres: str, tmp_path: Path, tiny_data: Path) -> None:
    file = write_longer(tmp_path, tiny_data, storage=postgres)
    root = tmp_path / "runs" / "tiny"
    said = [ended(p) for p in [tiny.begin(file, "--workers", "1") for _ in range(2)]]
    helps = ["another process leads this study; this one helps" in text for text in said]
    assert sorted(helps) == [False, True], said
    assert "writes its report in" in said[helps.index(True)]
    assert "Best found" in said[helps.index(False)]
    trials = check(root, url=postgres)
    assert len(trials) == TRIALS
    crews = {trial.user_attrs["worker"].partition("/")[0] for trial in trials}
    assert len(crews) == 2
    _, below = tiny.tracked(root)
    kinds = [run.data.tags["eramv.kind"] for run in below]
    assert kinds.count("trial") == TRIALS and kinds.count("fit") <= 3
    assert set(kinds) == {"trial", "fit"}
    assert not (root / "search.db").exists()


@pytest.mark.parametrize("lost", ["leader", "helper"])
def test_a_machine_that_is_lost(lost: str, postgres: str, tmp_path: Path, tiny_data: Path) -> None:
    file = write_longer(tmp_path, tiny_data, storage=postgres)
    root = tmp_path / "runs" / "tiny"
    leads = tiny.begin(file, "--workers", "1")
    wait_for(leads, lambda: [path] if (path := root / "sweep.yaml").exists() else [])
    helps = tiny.begin(file, "--workers", "1")
    killed, stays = (leads, helps) if lost == "leader" else (helps, leads)

    def its() -> list[Path]:
        """The trial that the machine is at, once both have one."""
        amidst = amid(root)
        held = tiny.trials(root, postgres) if amidst else []
        held = [t for t in held if {"worker", "folder"} <= t.user_attrs.keys()]
        crews = {t.user_attrs["worker"].partition("/")[0] for t in held}
        mine = [t for t in held if t.user_attrs["worker"].endswith(f"-{killed.pid}/w0")]
        folders = [root / t.user_attrs["folder"] for t in mine]
        return [folder for folder in folders if folder in amidst] if len(crews) == 2 else []

    cut = wait_for(killed, its)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert "Best found" in ended(stays)
    trials = check(root, url=postgres)
    (last,) = (t for t in trials if t.user_attrs.get("first") is not None)
    assert last.user_attrs["folder"] == str(cut.relative_to(root))
    assert last.user_attrs["resumed"] == 1 and len(trials) == TRIALS + 1
