"""A study skips what is finished, goes on past failures, and leaves nothing half done."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe.resolve import Recipe, load_recipe
from eramv_lab.train.study import run_study

FAKE = "tests.train.fakes:fit"
RECIPE = """
question: Does it run?
model:
  vision: {type: tiny}
  anchors: {type: cls_topk, count: 8}
  connector: mlp2x_gelu
  language: {type: tiny}
  band: {start: 2, length: 2}
trainer: {accelerator: cpu}
arms:
"""


def recipe(folder: Path, arms: str, seeds: str = "[0, 1]") -> Recipe:
    file = folder / "small.yaml"
    lines = "".join(f"  {arm}\n" for arm in arms.splitlines())
    file.write_text(f"{RECIPE}{lines}seeds: {seeds}\n")
    return load_recipe(file)


def study(what: Recipe, folder: Path, **settings) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=120)
    code = run_study(
        what, runs=folder / "runs", fit=FAKE, preload=(), prepare=False, console=console, **settings
    )
    return code, console.file.getvalue()


def order(folder: Path) -> list[str]:
    names = (folder / "runs" / "small" / "order.txt").read_text().split()
    return [name.rsplit("-", 1)[0] for name in names]


ARMS = "eramv: {}\nplain: {model.anchors.count: 9}"


def test_all_fits_then_skipped(tmp_path: Path) -> None:
    what = recipe(tmp_path, ARMS)
    code, text = study(what, tmp_path)
    assert code == 0
    assert sorted(order(tmp_path)) == ["eramv-s0", "eramv-s1", "plain-s0", "plain-s1"]
    assert "eramv s0" in text and "0.650" in text
    root = tmp_path / "runs" / "small"
    told = json.loads((root / "study.json").read_text())
    assert told["arms"] == ["eramv", "plain"] and told["seeds"] == [0, 1]
    assert load_recipe(root / "recipe.yaml").arms["plain"].hash == what.arms["plain"].hash
    folder = root / f"eramv-s1-{what.arms['eramv'].hash}"
    assert load_recipe(folder / "recipe.yaml").arms["main"].hash == what.arms["eramv"].hash
    assert {"versions", "git", "machine"} <= set(json.loads((folder / "env.json").read_text()))

    before = (folder / "result.json").stat().st_mtime_ns
    code, text = study(what, tmp_path)
    assert code == 0 and len(order(tmp_path)) == 4
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert "plain" in text


def test_unfinished_starts_over_and_results_stay(tmp_path: Path) -> None:
    what = recipe(tmp_path, ARMS, "[0]")
    study(what, tmp_path, arms=["eramv"])
    half = tmp_path / "runs" / "small" / f"plain-s0-{what.arms['plain'].hash}"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    assert study(what, tmp_path)[0] == 0
    assert order(tmp_path) == ["eramv-s0", "plain-s0"]
    assert not (half / "model.safetensors").exists()


def test_one_failure_is_one_failure(tmp_path: Path) -> None:
    what = recipe(tmp_path, f"bad: {{}}\n{ARMS}\nafter: {{base.arm: bad}}", "[0]")
    code, text = study(what, tmp_path)
    assert code == 1
    assert sorted(order(tmp_path)) == ["bad-s0", "eramv-s0", "plain-s0"]
    error = tmp_path / "runs" / "small" / f"bad-s0-{what.arms['bad'].hash}" / "error.txt"
    assert str(error) in text and "no luck" in error.read_text()
    assert "no luck [/here]" in text  # what would be markup to a terminal
    assert "after s0" in text and "not run" in text
    assert "0.650" in text  # the others are compared


def test_several_machines_need_someone_who_starts_them(tmp_path: Path) -> None:
    what = recipe(tmp_path, "eramv: {trainer.nodes: 2}")
    with pytest.raises(UserError, match=r"trainer.nodes: several machines need torchrun or srun"):
        study(what, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_checkpoints_of_a_finished_fit_go(tmp_path: Path) -> None:
    what = recipe(tmp_path, "eramv: {}", "[0]")
    study(what, tmp_path)
    (folder,) = (tmp_path / "runs" / "small").glob("eramv-s0-*")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-00000001.pt").write_bytes(b"x")
    study(what, tmp_path)
    assert (folder / "result.json").exists() and not (folder / "checkpoints").exists()


def test_an_arm_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    what = recipe(tmp_path, "second: {base.arm: first}\nfirst: {}", "[3]")
    assert study(what, tmp_path, arms=["second"])[0] == 0
    assert order(tmp_path) == ["first-s3", "second-s3"]


def test_a_changed_arm_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    study(recipe(tmp_path, "eramv: {}", "[0]"), tmp_path)
    study(recipe(tmp_path, "eramv: {train.steps: 7}", "[0]"), tmp_path)
    assert len(list((tmp_path / "runs" / "small").glob("*/result.json"))) == 2


def test_a_broken_result_is_not_overwritten(tmp_path: Path) -> None:
    what = recipe(tmp_path, "eramv: {}", "[0]")
    study(what, tmp_path)
    file = tmp_path / "runs" / "small" / f"eramv-s0-{what.arms['eramv'].hash}" / "result.json"
    file.write_text("{")
    with pytest.raises(LabError, match="move it away"):
        study(what, tmp_path)
    assert file.read_text() == "{"


def test_an_unknown_arm_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean: eramv"):
        study(recipe(tmp_path, ARMS), tmp_path, arms=["eramw"])
    assert not (tmp_path / "runs").exists()


def test_only_one_process_runs_a_study(tmp_path: Path) -> None:
    import fcntl

    root = tmp_path / "runs" / "small"
    root.mkdir(parents=True)
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="another process"):
            study(recipe(tmp_path, ARMS), tmp_path)


SCRIPT = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.train.study import run_study
if __name__ == "__main__":
    what = load_recipe(sys.argv[1])
    parsed = time.perf_counter()
    code = run_study(what, runs=Path(sys.argv[2]), fit="tests.train.fakes:fit", preload=(),
                     prepare=False)
    heavy = {"lightning", "mlflow", "transformers", "matplotlib"} & set(sys.modules)
    print("LOADED", sorted(heavy), "SECONDS", time.perf_counter() - parsed)
    sys.exit(code)
"""


def script(tmp_path: Path) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "small.yaml"),
            str(tmp_path / "runs")]  # fmt: skip


def environment() -> dict[str, str]:
    here = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": here}


def test_a_finished_study_ends_in_a_blink(tmp_path: Path) -> None:
    study(recipe(tmp_path, ARMS), tmp_path)
    (tmp_path / "runs" / "small" / "table.md").write_text("")
    done = subprocess.run(script(tmp_path), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert "LOADED []" in last
    assert float(last.rsplit(" ", 1)[1]) < 3  # busy machines
    assert len(order(tmp_path)) == 4


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(tmp_path: Path, sign: int, code: int) -> None:
    what = recipe(tmp_path, "slow: {}", "[0]")
    folder = tmp_path / "runs" / "small" / f"slow-s0-{what.arms['slow'].hash}"
    process = subprocess.Popen(script(tmp_path), env=environment(), stdout=subprocess.PIPE)
    until = time.monotonic() + 30
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(sign)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"the same command" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)
    assert not (folder / "result.json").exists() and not (folder / "error.txt").exists()
