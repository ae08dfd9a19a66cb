"""Jobs run in their order in fresh processes; one that fails takes down only those after it."""

import os
import signal
import time
from pathlib import Path

import pytest

from eramv_lab import registry
from eramv_lab.train import pool
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


def one_fails() -> None:
    if os.environ["RANK"] == "1":
        raise RuntimeError("no luck")
    time.sleep(60)


def die_first(path: str, times: int) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    if len(Path(path).read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


def job(
    tmp: Path, key: str, target: str, after: tuple[str, ...] = (), lives: int = 0, **args
) -> Job:
    call = {"target": f"{HERE}:{target}", "args": args}
    return Job(key=key, folder=tmp / key, after=after, lives=lives, **call)


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


class Restarts(Watcher):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []

    def restarted(self, job, code) -> None:
        self.seen.append((job.key, code))


def test_a_killed_job_is_started_again(tmp_path: Path) -> None:
    watcher = Restarts()
    jobs = [
        job(tmp_path, "cat", "die_first", lives=2, path=str(tmp_path / "cat.txt"), times=2),
        job(tmp_path, "dog", "die_first", lives=1, path=str(tmp_path / "dog.txt"), times=9),
        job(tmp_path, "bad", "fail", lives=3),
    ]
    assert run(jobs, watcher=watcher) == {"cat": "done", "dog": "failed", "bad": "failed"}
    assert sorted(watcher.seen) == [("cat", -9), ("cat", -9), ("dog", -9)]
    assert not (tmp_path / "cat" / "error.txt").exists()
    for name in ("cat/error-1.txt", "cat/error-2.txt", "dog/error-1.txt", "dog/error.txt"):
        assert "killed by signal 9" in (tmp_path / name).read_text()


def test_a_rank_that_fails_is_no_kill(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pool, "LOST_S", 0.1)
    watcher = Restarts()
    both = Job(key="both", target=f"{HERE}:one_fails", folder=tmp_path / "x", ranks=2, lives=3)
    assert run([both], watcher=watcher) == {"both": "failed"}
    assert not watcher.seen


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


def plugin_is_there(path: str) -> None:
    import sys

    Path(path).write_text(str("outside_component" in sys.modules))


def test_processes_know_the_plugins_that_recipes_have_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "outside_component.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_plugins", {})
    assert not registry.load_plugins(["outside_component"])
    told = {"path": str(tmp_path / "told")}
    job = Job(key="a", target=f"{HERE}:plugin_is_there", folder=tmp_path / "a", args=told)
    assert run_jobs([job], workers=1, preload=()) == {"a": "done"}
    assert (tmp_path / "told").read_text() == "True"
