"""Several processes of one fit: the same losses as one, sharded weights made whole again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.report.plots import read_curve
from eramv_lab.train import checkpoint, ranks
from eramv_lab.train.plan import Fit, clear, fit_of, ranks_of
from eramv_lab.train.pool import Job, run_jobs

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
  band: {start: 2, length: 2}
  bridge: mlp
  prompt: question_first
data: {folder: FOLDER, world: {train: 20, test: 4, questions: 2}}
train:
  steps: 4
  optimizer: adamw
  images: 4
  questions: 2
  validate_every: 2
  validate_images: 4
  log_every: 1
  checkpoint_every: 2
evaluate: {images: 2}
trainer: {accelerator: cpu}
"""
CHANGES: dict[str, list[str]] = {
    "one": [],
    "ddp": ["trainer.devices=2", "train.images=2", "trainer.strategy=ddp"],
    "fsdp2": ["trainer.devices=2", "train.images=2", "trainer.strategy=fsdp2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    (path / "small.yaml").write_text(RECIPE.replace("FOLDER", str(path / "data")))
    return path


def planned(folder: Path, name: str, *more: str) -> Fit:
    arm = load_recipe(folder / "small.yaml", [*CHANGES[name], *more]).arms["main"]
    return fit_of(arm, 3, "ranks", folder / name)


def run(fit: Fit, target: str = "eramv_lab.train.fit:fit_one") -> str:
    job = Job(
        key=fit.key,
        target=target,
        folder=fit.folder,
        args={"run_dir": str(fit.folder), "plan": fit.plan()},
        ranks=ranks_of(fit.arm, 0),
    )
    return run_jobs([job], workers=1)[fit.key]


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Callable[[str], Fit]:
    def get(name: str) -> Fit:
        fit = planned(folder, name)
        if fit.result() is None:
            clear(fit)
            assert run(fit) == "done", (fit.folder / "error.txt").read_text()
        return fit

    return get


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_learns_from_the_same_batch(fitted, strategy):
    one, two = fitted("one"), fitted(strategy)
    for name in ("train/loss", "val/loss", "val/accuracy"):
        mine = read_curve(one.folder / "curves.csv", name)
        its = read_curve(two.folder / "curves.csv", name)
        assert [s for s, _ in mine] == [s for s, _ in its]
        torch.testing.assert_close([v for _, v in its], [v for _, v in mine], atol=2e-5, rtol=1e-5)
    weights = [load_file(f.folder / "model.safetensors") for f in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-3, rtol=1e-3)
    rows = [f.result()["row"] for f in (one, two)]
    assert rows[0]["train_pflops"] == pytest.approx(rows[1]["train_pflops"])
    assert rows[0]["parameters"] == rows[1]["parameters"]


def killed(run_dir: str, plan: dict[str, object]) -> None:
    """The fit, in which the second process is killed at its fourth step."""
    from eramv_lab.train.fit import fit_one
    from eramv_lab.train.module import LitArm

    plain, calls = LitArm.training_step, []

    def step(self, *args):
        calls.append(1)
        if len(calls) == 4 and ranks.rank() == 1:
            os.kill(os.getpid(), 9)
        return plain(self, *args)

    LitArm.training_step = step  # type: ignore[method-assign]
    fit_one(run_dir, plan)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_lost_process_ends_the_fit_which_goes_on_from_its_checkpoint(
    fitted, folder, strategy, tmp_path
):
    whole = fitted(strategy)
    arm = whole.arm
    fit = fit_of(arm, 3, "ranks", tmp_path)
    clear(fit)
    assert run(fit, "tests.train.test_ranks:killed") == "failed"
    state = checkpoint.newest(fit.folder)  # one process reads what several have written
    assert state is not None and state["step"] == 2
    assert all(type(value) is torch.Tensor for value in state["model"].values())
    clear(fit)
    assert run(fit) == "done", (fit.folder / "error.txt").read_text()
    assert (fit.folder / "curves.csv").read_text() == (whole.folder / "curves.csv").read_text()
    mine, its = (load_file(f.folder / "model.safetensors") for f in (fit, whole))
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_torchrun_fits_a_whole_study(folder: Path, fitted, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("-m", "eramv_lab", "fit", str(folder / "small.yaml"), *CHANGES["ddp"]),
        *("--seed", "3", "--runs", str(tmp_path / "runs")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "files:" in done.stdout and done.stdout.count("accuracy") >= 1
    (result,) = (tmp_path / "runs").glob("small/*/result.json")
    theirs = fitted("ddp").folder
    assert (result.parent / "curves.csv").read_text() == (theirs / "curves.csv").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "were done before" in again.stdout


def test_another_number_of_processes_than_the_recipe_asks_is_refused(monkeypatch) -> None:
    for name, value in ranks.environment(0, 3, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="3 were started"), ranks.joined(2):
        pass
