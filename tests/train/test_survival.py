"""The command line is stopped, requeued and killed; the same line goes on to the same end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eramv_lab.train.files import read_json
from eramv_lab.train.plan import checkpoint_steps
from eramv_lab.train.ranks import free_port

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
data: {folder: DATA, world: {train: 20, test: 4, val: 4, questions: 2}}
train:
  steps: 40
  images: 4
  questions: 2
  validate_every: 0
  log_every: 1
  checkpoint_every: 1
evaluate: {images: 2}
trainer: {accelerator: cpu}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survival")
    (folder / "small.yaml").write_text(RECIPE.replace("DATA", str(folder / "data")))
    return folder / "small.yaml"


def begin(recipe: Path, runs: str, *more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eramv_lab", "fit", recipe, *more, "--runs", recipe.parent / runs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )


def fit_folder(recipe: Path, runs: str) -> Path | None:
    return next((recipe.parent / runs / "small").glob("main-s0-*"), None)


def wait_for(process: subprocess.Popen[str], recipe: Path, steps: int, runs: str = "runs") -> int:
    """Until the fit has got so much further than it was; the step where it is."""
    folder = fit_folder(recipe, runs)
    goal = max(checkpoint_steps(folder) if folder else [], default=0) + steps
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0]
        folder = folder or fit_folder(recipe, runs)
        if folder and (at := max(checkpoint_steps(folder), default=0)) >= goal:
            return at
        time.sleep(0.02)
    raise AssertionError("no checkpoint came")


def with_scontrol(folder: Path) -> str:
    """PATH with a `scontrol` that notes in scontrol.txt what it was told."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {folder}/scontrol.txt\n')
    (tools / "scontrol").chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


@pytest.mark.slow
def test_stopped_requeued_killed_and_begun_again(recipe: Path) -> None:
    process = begin(recipe, "runs")
    at = wait_for(process, recipe, 2)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM; the same command goes on" in told
    folder = fit_folder(recipe, "runs")
    assert folder and max(checkpoint_steps(folder)) >= at and not (folder / "error.txt").exists()

    process = begin(recipe, "runs", PATH=with_scontrol(recipe.parent), SLURM_JOB_ID="17")
    wait_for(process, recipe, 2)
    os.killpg(process.pid, signal.SIGUSR1)  # SLURM warns every process of the step
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "job 17 requeued" in told, told
    assert (recipe.parent / "scontrol.txt").read_text() == "requeue 17\n"

    process = begin(recipe, "runs")
    wait_for(process, recipe, 2)
    process.kill()
    process.communicate(timeout=60)
    process = begin(recipe, "runs")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told

    whole = begin(recipe, "whole")
    assert whole.communicate(timeout=120) and whole.returncode == 0
    other = fit_folder(recipe, "whole")
    assert other is not None
    mine, its = (load_file(f / "model.safetensors") for f in (folder, other))
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert (folder / "curves.csv").read_text() == (other / "curves.csv").read_text()
    result = read_json(folder / "result.json")
    assert result and result["stints"][0]["from_step"] == 0
    assert 2 <= len(result["stints"]) <= 4


@pytest.mark.slow
def test_processes_that_srun_started_save_together_and_requeue_their_job(recipe: Path) -> None:
    def both() -> list[subprocess.Popen[str]]:
        told = {"SLURM_JOB_ID": "18", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
        told |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
        told |= {"PATH": with_scontrol(recipe.parent)}
        return [
            begin(recipe, "srun", "trainer.devices=2", "train.images=2",
                  SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **told)
            for rank in range(2)
        ]  # fmt: skip

    processes = both()
    at = wait_for(processes[0], recipe, 2, "srun")
    for process in processes:
        process.send_signal(signal.SIGUSR1)
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [p.returncode for p in processes] == [143, 143], told
    assert "job 18 requeued" in told[0] and "requeued" not in told[1]
    assert (recipe.parent / "scontrol.txt").read_text() == "requeue 18\n"
    folder = fit_folder(recipe, "srun")
    assert folder and max(checkpoint_steps(folder)) >= at
    processes = both()
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], told
    assert "files:" in told[0] and "files:" not in told[1]
    result = read_json(folder / "result.json")
    assert result and len(result["stints"]) == 2
