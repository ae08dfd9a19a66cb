"""Several processes of one fit: the same losses as one, sharded weights made whole again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from eramv_lab.data.importing import import_llava
from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.report.plots import read_curve
from eramv_lab.train import checkpoint, ranks
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import Fit, clear, fit_of, ranks_of
from eramv_lab.train.pool import Job, run_jobs
from eramv_lab.train.resume import load_weights
from tests.hub import make_clip, make_qwen2

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
  band: {start: 2, length: 2}
  bridge: mlp
  prompt: question_first
data: {folder: FOLDER, world: {train: 20, test: 4, val: 4, questions: 2}}
train:
  steps: 4
  optimizer: adamw
  warmup: 0
  lr: 1e-3
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
    start = LitArm(one.plan()["recipe"], 3).model.state_dict()
    apart = [(weights[0][name] - weights[1][name]).norm() for name in weights[0]]
    moved = [(weights[0][name] - start[name]).norm() for name in weights[0]]
    # Adam's step of a weight without gradient to speak of is noise; as a whole they agree
    assert torch.stack(apart).norm() < 0.01 * torch.stack(moved).norm()
    rows = [f.result()["row"] for f in (one, two)]
    assert rows[0]["train_pflops"] == pytest.approx(rows[1]["train_pflops"])
    assert rows[0]["parameters"] == rows[1]["parameters"]


MIXED = """
model:
  vision: {type: hf, path: CLIP, feature_layer: -1}
  language: {type: hf, path: QWEN2}
  anchors: {type: cls_topk, count: 4, cls: true}
  connector: mlp2x_gelu
  band: {start: 0, length: 2}
  bridge: mlp
  prompt: {type: question_first, template: chat}
data: {type: shards, folder: CACHE, cache_gib: GIB, shards: {path: MIX}}
train:
  {steps: 5, images: IMAGES, optimizer: adamw, by_length: true, validate_every: 0, log_every: 1}
evaluate: {images: 1}
trainer: {accelerator: cpu, devices: DEVICES, strategy: STRATEGY}
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of which two in three samples are text alone, so that whole batches are."""
    folder = tmp_path_factory.mktemp("mixed")
    Image.new("RGB", (40, 30), (200, 30, 30)).save(folder / "a.png")

    def sample(number: int) -> dict[str, object]:
        words = "red " * (number % 5 + 1)
        turns = [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": words}]
        return {"id": str(number), "conversations": turns} | (
            {"image": "a.png"} if number % 3 == 0 else {}
        )

    for name, numbers in (("train", range(24)), ("test", range(3))):
        (folder / f"{name}.json").write_text(json.dumps([sample(n) for n in numbers]))
    import_llava(
        folder / "train.json",
        folder,
        folder / "mix",
        test=folder / "test.json",
        processes=1,
        console=Console(quiet=True),
    )
    text = MIXED.replace("CLIP", str(make_clip(folder / "clip")))
    text = text.replace("QWEN2", str(make_qwen2(folder / "qwen2")))
    (folder / "mixed.txt").write_text(
        text.replace("CACHE", str(folder / "cache")).replace("MIX", str(folder / "mix"))
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "gib"), [("ddp", "0"), ("ddp", "8"), ("fsdp2", "8")])
def test_text_alone_and_words_of_any_number_count_as_in_one_process(mixed, strategy, gib):
    losses = []
    for devices, images in ((1, 4), (2, 2)):
        text = (mixed / "mixed.txt").read_text().replace("DEVICES", str(devices))
        text = text.replace("IMAGES", str(images)).replace("GIB", gib)
        (mixed / "mixed.yaml").write_text(text.replace("STRATEGY", strategy))
        arm = load_recipe(mixed / "mixed.yaml").arms["main"]
        fit = fit_of(arm, 0, "mixed", mixed / f"{strategy}{gib}")
        clear(fit)
        assert run(fit) == "done", (fit.folder / "error.txt").read_text()
        losses.append([v for _, v in read_curve(fit.folder / "curves.csv", "train/loss")])
    assert len(losses[0]) == 5
    torch.testing.assert_close(losses[0], losses[1], atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_muon_over_two_processes_differs_by_its_16_bit_iteration_alone(folder, strategy, tmp_path):
    losses = []
    for name in ("one", strategy):
        arm = planned(folder, name, "train.optimizer=muon").arm
        fit = fit_of(arm, 3, "ranks", tmp_path / name)
        clear(fit)
        assert run(fit) == "done", (fit.folder / "error.txt").read_text()
        losses.append([v for _, v in read_curve(fit.folder / "curves.csv", "train/loss")])
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)
    torch.testing.assert_close(losses[0], losses[1], atol=2e-3, rtol=0)
    assert losses[0][0] - losses[0][-1] > 0.1  # what it learns is far more than that


def killed(run_dir: str, plan: dict[str, object]) -> None:
    """The fit, in which the second process is killed at its fourth step."""
    from eramv_lab.train.fit import fit_one

    plain, calls = LitArm.training_step, []

    def step(self, *args):
        calls.append(1)
        if len(calls) == 4 and ranks.rank() == 1:
            os.kill(os.getpid(), 9)
        return plain(self, *args)

    LitArm.training_step = step  # type: ignore[method-assign]
    fit_one(run_dir, plan)


@pytest.mark.slow
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
    alone = LitArm(fit.plan()["recipe"], 3)
    load_weights(alone, state)
    learnt = {name: p for name, p in alone.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, state["model"][name]) for name, p in learnt.items())
    clear(fit)
    assert run(fit) == "done", (fit.folder / "error.txt").read_text()
    assert (fit.folder / "curves.csv").read_text() == (whole.folder / "curves.csv").read_text()
    mine, its = (load_file(f.folder / "model.safetensors") for f in (fit, whole))
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.slow
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
