"""Every engine runs the same worker to the end, also where one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from eramv_lab.errors import UserError
from eramv_lab.registry import field_docs
from eramv_lab.sweep import launch as launching
from eramv_lab.sweep.launch import LAUNCHERS, launch, launcher_to_plain, parse_launcher
from eramv_lab.sweep.launchers import slurm
from eramv_lab.train.pool import Watcher
from eramv_lab.train.stop import Signalled, Stopped, stoppable
from tests.sweep import fake_slurm

HERE = "tests.sweep.test_launch"
FILES = 12
ENGINES = [
    pytest.param("local", id="local"),
    pytest.param(
        {"type": "slurm", "cluster": "local"},
        marks=pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit"),
        id="submitit",
    ),
    pytest.param(
        "ray",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not find_spec("ray"), reason="needs ray"),
        ],
        id="ray",
    ),
]


def work(todo: str, kill: str | None, worker: str) -> None:
    """Take the files in their order; on the third, `kill` kills itself, once."""
    folder = Path(todo)
    (folder / f"pid-{worker}").write_text(str(os.getpid()))
    for mine in folder.glob(f"taken-*-{worker}"):  # of a life before
        mine.rename(folder / ("todo-" + mine.name.split("-")[1]))
    try:
        while left := sorted(folder.glob("todo-*")):
            number = left[0].name.split("-")[1]
            taken = folder / f"taken-{number}-{worker}"
            try:
                left[0].rename(taken)
            except FileNotFoundError:
                continue
            time.sleep(0.05)
            if worker == kill and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            taken.rename(folder / f"done-{number}")
    except Stopped as stopped:
        (folder / f"saved-{worker}").write_text(str(stopped.number))
        raise


def endless(todo: str, worker: str) -> None:
    """Goes on until it is asked to stop; a life after that ends at once."""
    folder = Path(todo)
    if (folder / f"saved-{worker}").exists():
        (folder / f"back-{worker}").touch()
        return
    try:
        (folder / f"pid-{worker}").write_text(str(os.getpid()))
        for _ in range(600):  # Ray's interrupt wakes nobody from one long sleep
            time.sleep(0.1)
    except Stopped as stopped:
        (folder / f"saved-{worker}").write_text(str(stopped.number))
        raise


def fail(worker: str) -> None:
    raise RuntimeError(f"no luck for {worker}")


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


class Seen(Watcher):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, running) -> None:
        self.events.append(("started", running.job.key))

    def restarted(self, job, code) -> None:
        self.events.append(("restarted", job.key))

    def ended(self, job, outcome, seconds) -> None:
        self.events.append((outcome, job.key))


class Impatient(Watcher):
    """Acts, once, when both workers are at work."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.acted = folder, False

    def tick(self, running) -> None:
        if not self.acted and len([p for p in self.folder.glob("pid-*") if p.read_text()]) == 2:
            self.acted = True
            self.both()

    def both(self) -> None:
        raise KeyboardInterrupt


class Terminated(Impatient):
    """SIGTERM to the parent."""

    def both(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class Warn(Impatient):
    """SLURM's warning to both workers."""

    def both(self) -> None:
        for path in self.folder.glob("pid-*"):
            os.kill(int(path.read_text()), signal.SIGUSR2)


def settings(value):
    problems = []
    found = parse_launcher(value, "launcher", problems)
    assert found is not None, problems
    return found


def start(
    value, target: str, root: Path, args: dict, watcher: Watcher | None = None, workers: int = 2
):
    return launch(
        settings(value),
        f"{HERE}:{target}",
        args,
        workers=workers,
        root=root,
        watcher=watcher,
        preload=(),
    )


@pytest.mark.parametrize("value", ENGINES)
def test_a_killed_worker_comes_back_and_all_is_done(value, tmp_path: Path) -> None:
    todo = tmp_path / "todo"
    todo.mkdir()
    for number in range(FILES):
        (todo / f"todo-{number:02}").touch()
    watcher = Seen()
    ends = start(value, "work", tmp_path, {"todo": str(todo), "kill": "w1"}, watcher)
    assert len(list(todo.glob("done-*"))) == FILES
    assert not list(todo.glob("taken-*"))
    assert [(e.name, e.outcome, e.restarts, e.error) for e in ends] == [
        ("w0", "done", 0, None),
        ("w1", "done", 1, None),
    ]
    assert sorted(watcher.events) == [
        ("done", "w0"),
        ("done", "w1"),
        ("restarted", "w1"),
        ("started", "w0"),
        ("started", "w1"),
    ]
    assert (tmp_path / "workers" / "w0" / "log.txt").exists()


@pytest.mark.parametrize("value", ENGINES)
def test_a_stop_lets_the_workers_save(value, tmp_path: Path) -> None:
    with pytest.raises(Signalled), stoppable():
        start(value, "endless", tmp_path, {"todo": str(tmp_path)}, Terminated(tmp_path))
    for name in ("w0", "w1"):
        asked = int((tmp_path / f"saved-{name}").read_text())
        assert asked == (signal.SIGINT if value == "ray" else signal.SIGTERM)
        assert gone(int((tmp_path / f"pid-{name}").read_text()))


@pytest.mark.parametrize("value", ENGINES)
def test_a_worker_that_fails_says_why_and_is_not_repeated(value, tmp_path: Path) -> None:
    for end in start(value, "fail", tmp_path, {}):
        assert (end.outcome, end.restarts) == ("failed", 0)
        assert end.error == f"RuntimeError: no luck for {end.name}"
        assert "Traceback" in (end.folder / "error.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit")
def test_a_warning_is_followed_by_a_save_and_the_queue(tmp_path: Path) -> None:
    """What SLURM does before a job's time is up, or before it is preempted."""
    local = {"type": "slurm", "cluster": "local"}
    ends = start(local, "endless", tmp_path, {"todo": str(tmp_path)}, Warn(tmp_path))
    assert [(e.outcome, e.restarts) for e in ends] == [("done", 1)] * 2
    assert {path.name for path in tmp_path.glob("back-*")} == {"back-w0", "back-w1"}
    assert not list(tmp_path.glob("workers/*/error*.txt"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch) -> Path:
    """Folder of a make-believe SLURM."""
    if not find_spec("submitit"):
        pytest.skip("needs submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    fake_slurm.install(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setattr(slurm, "POLL_S", {"slurm": 0.1})
    monkeypatch.setattr(slurm, "LATE_S", {"slurm": 0.5})
    monkeypatch.setattr(slurm, "ASK_S", 0.3)
    return folder


@pytest.mark.slow
def test_slurm_brings_a_lost_worker_back(cluster: Path, tmp_path: Path) -> None:
    todo = tmp_path / "todo"
    todo.mkdir()
    for number in range(FILES):
        (todo / f"todo-{number:02}").touch()
    value = {
        "type": "slurm",
        "partition": "gpu",
        "time_min": 90,
        "warning_s": 77,
        "gpus_per_node": 1,
        "mem_gb": 4.0,
        "setup": ["echo ready"],
        "slurm_additional": {"account": "vision"},
    }
    ends = start(value, "work", tmp_path, {"todo": str(todo), "kill": "w1"})
    assert [(e.outcome, e.restarts, e.error) for e in ends] == [
        ("done", 0, None),
        ("done", 1, None),
    ]
    assert len(list(todo.glob("done-*"))) == FILES
    assert "NODE_FAIL" in (tmp_path / "workers" / "w1" / "error-1.txt").read_text()
    script = (cluster / "1.sh").read_text()
    for said in (
        *("partition=gpu", "time=90", "signal=USR2@77", "gpus-per-node=1", "mem=4GB"),
        *("account=vision", "cpus-per-task=1", "array=0-1%2"),
    ):
        assert f"#SBATCH --{said}\n" in script
    assert "echo ready" in script
    assert "array" not in (cluster / "2.sh").read_text()


@pytest.mark.slow
def test_slurm_warns_and_requeues(cluster: Path, tmp_path: Path) -> None:
    ends = start("slurm", "endless", tmp_path, {"todo": str(tmp_path)}, Warn(tmp_path))
    assert [(e.outcome, e.restarts) for e in ends] == [("done", 1)] * 2
    assert not (cluster / "2.sh").exists()  # the same job, by scontrol


@pytest.mark.slow
def test_slurm_jobs_are_cancelled_and_save(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        start("slurm", "endless", tmp_path, {"todo": str(tmp_path)}, Impatient(tmp_path))
    for name in ("w0", "w1"):
        assert (tmp_path / f"saved-{name}").read_text() == str(int(signal.SIGTERM))
        assert gone(int((tmp_path / f"pid-{name}").read_text()))


@pytest.mark.slow
def test_a_worker_that_somebody_cancelled_stays_away(cluster: Path, tmp_path: Path) -> None:
    class Cancel(Impatient):
        def both(self) -> None:
            for job in ("1_0", "1_1"):
                subprocess.run(["scancel", job], check=True)

    for end in start("slurm", "endless", tmp_path, {"todo": str(tmp_path)}, Cancel(tmp_path)):
        assert (end.outcome, end.restarts) == ("failed", 0)
        assert end.error is not None and "cancelled" in end.error


@pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit")
def test_a_worker_has_no_more_lives_than_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "todo-1").touch()
    value = {"type": "slurm", "cluster": "local", "lives": 0}
    args = {"todo": str(tmp_path), "kill": "w0"}
    (end,) = start(value, "work", tmp_path, args, workers=1)
    assert (end.outcome, end.restarts) == ("failed", 0)
    assert end.error is not None and "killed" in end.error


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="needs ray")
def test_a_ray_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"launcher.address: there is no Ray at 127.0.0.1:1\b"):
        start({"type": "ray", "address": "127.0.0.1:1"}, "fail", tmp_path, {})


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="needs ray")
def test_a_worker_that_fits_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks Ray for 99 GPU"):
        start({"type": "ray", "num_gpus": 99}, "fail", tmp_path, {})


# --- settings


def test_the_parent_imports_nothing_heavy() -> None:
    heavy = {"torch", "lightning", "mlflow", "transformers", "optuna", "ray", "submitit"}
    code = (
        "import sys; from eramv_lab.sweep.launch import LAUNCHERS; LAUNCHERS.load(); "
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_launchers_and_their_settings() -> None:
    assert sorted(LAUNCHERS.names()) == ["local", "ray", "slurm"]
    assert settings(None) == settings("none") == settings("local") == settings({"lives": 5})
    value = {"type": "slurm", "partition": "gpu", "slurm_additional": {"account": "vision"}}
    again = settings(launcher_to_plain(settings(value)))
    assert again == settings(value)
    assert again.slurm_additional == {"account": "vision"}
    for launcher in LAUNCHERS:
        assert field_docs(launcher.config).keys() == launcher.config.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("slrum", "slurm"),
        ({"type": "slurm", "partitoin": "x"}, "partition"),
        ({"type": "slurm", "time_min": 0}, "greater than or equal to 1"),
        ({"type": "local", "lives": -1}, "greater than or equal to 0"),
    ],
)
def test_mistakes_are_told(value, said: str) -> None:
    problems = []
    assert parse_launcher(value, "launcher", problems) is None
    assert said in UserError(problems).render()


def test_a_missing_engine_says_what_to_install(monkeypatch) -> None:
    def missing(name: str):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(launching.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'eramv-lab\[slurm\]'"):
        launching.engine("submitit", "slurm")


@pytest.mark.skipif(not find_spec("submitit"), reason="needs submitit")
def test_without_slurm_the_message_is_short(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun"):
        start("slurm", "fail", tmp_path, {})
