"""Jobs run in their order in fresh processes; one that fails takes down only those after it."""

import os
import time
from pathlib import Path

import pytest

from eramv_lab.train.pool import Job, Watcher, run_jobs

HERE = "tests.train.test_pool"


def note(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")


def fail() -> None:
    raise RuntimeError("no luck")


def die() -> None:
    os._exit(7)


def sleep(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def job(tmp: Path, key: str, target: str, after: tuple[str, ...] = (), **args) -> Job:
    return Job(key=key, target=f"{HERE}:{target}", folder=tmp / key, args=args, after=after)


def run(jobs, **settings):
    return run_jobs(jobs, workers=2, preload=(), **settings)


def test_order_and_fresh_processes(tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    jobs = [
        job(tmp_path, "c", "note", ("a", "b"), path=notes, text="c"),
        job(tmp_path, "a", "note", path=notes, text="a"),
        job(tmp_path, "b", "note", ("a",), path=notes, text="b"),
    ]
    assert set(run(jobs, threads=1).values()) == {"done"}
    lines = [line.split() for line in Path(notes).read_text().splitlines()]
    assert [line[0] for line in lines] == ["a", "b", "c"]
    assert len({line[1] for line in lines} | {str(os.getpid())}) == 4
    assert {line[2] for line in lines} == {"1"}


def test_failure_blocks_only_what_follows(tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    jobs = [
        job(tmp_path, "bad", "fail"),
        job(tmp_path, "dead", "die"),
        job(tmp_path, "child", "note", ("bad",), path=notes, text="child"),
        job(tmp_path, "other", "note", path=notes, text="other"),
    ]
    assert run(jobs) == {"bad": "failed", "dead": "failed", "child": "blocked", "other": "done"}
    assert "RuntimeError: no luck" in (tmp_path / "bad" / "error.txt").read_text()
    assert "exit code 7" in (tmp_path / "dead" / "error.txt").read_text()
    assert Path(notes).read_text().startswith("other")


def test_an_exception_stops_the_processes(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    class Impatient(Watcher):
        def tick(self, running) -> None:
            if pid.exists() and pid.read_text():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job(tmp_path, "long", "sleep", path=str(pid))], watcher=Impatient())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_circle_is_refused(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "fail", ("b",)), job(tmp_path, "b", "fail", ("a",))]
    with pytest.raises(ValueError, match="wait for one another"):
        run(jobs)
