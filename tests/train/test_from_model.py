"""Fits that start from a released model and are scored on further held-out sets."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.report.runs import read_run
from eramv_lab.train.fit import fit_one
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import Fit, fit_of, prepare_jobs
from eramv_lab.train.start import load_arm
from eramv_lab.train.study import run_study

RECIPE = """
model:
  vision: {type: tiny}
  anchors: {type: cls_topk, count: 8}
  connector: mlp2x_gelu
  language: {type: tiny}
  band: {start: 2, length: 2}
  bridge: low_rank
base: {recipe: none, model: released}
data: {folder: data, world: {train: 12, test: 6, val: 4, questions: 4}}
data.world.shapes: [star, thing, cross, square]
train: {steps: 2, images: 3, questions: 4, validate_every: 0, validate_images: 4}
evaluate: {batch: 2, also: {old: {world: {train: 1, test: 5, val: 1, questions: 4}}}}
trainer: {accelerator: cpu}
arms:
  tuned: {}
  late: {model.band: {start: 3, length: 2}, model.sharing: separate}
  untouched: {train.steps: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("from_model")
    text = RECIPE.replace("folder: data", f"folder: {path / 'data'}")
    (path / "small.yaml").write_text(text.replace("model: released", "model: none"))
    arm = load_recipe(path / "small.yaml").arms["tuned"]
    LitArm(arm.plain, 77).model.save_pretrained(path / "released")
    (path / "small.yaml").write_text(text)
    return path


def fit(folder: Path, name: str) -> Fit:
    return fit_of(load_recipe(folder / "small.yaml").arms[name], 5, "small", folder / "runs")


@pytest.fixture(scope="module")
def untouched(folder: Path) -> Path:
    one = fit(folder, "untouched")
    fit_one(one.folder, one.plan())
    return one.folder


def test_the_plan_says_where_a_fit_starts(folder: Path) -> None:
    start = fit(folder, "tuned").plan()["start"]
    assert list(start) == ["model"] and Path(start["model"]).resolve() == folder / "released"


def test_a_fit_takes_the_weights_of_the_model(folder: Path, untouched: Path) -> None:
    released = load_file(folder / "released" / "model.safetensors")
    taken = load_file(untouched / "model.safetensors")
    assert released.keys() == taken.keys()
    assert all(torch.equal(released[name], taken[name]) for name in released)
    started = json.loads((untouched / "result.json").read_text())["start"]
    assert Path(started["model"]).resolve() == folder / "released"


def test_it_is_scored_on_the_further_set_too(untouched: Path) -> None:
    run = read_run(untouched)
    assert run is not None
    old = run.result["also"]["old"]
    assert old["n"] == len(run.also["old"]) == 20 and len(run.answers) == 24
    assert run.row["accuracy_old"] == old["accuracy"]
    assert old["low"] <= old["accuracy"] <= old["high"]
    assert sum(kind["n"] for kind in old["per_type"].values()) == 20
    words = " ".join(answer.question for answer in run.also["old"].values()).split()
    assert "circle" in words and "thing" not in words
    assert "circle" not in " ".join(answer.question for answer in run.answers.values()).split()


def test_bands_that_the_model_lacks_begin_as_they_would_on_its_language_model(folder: Path) -> None:
    """Layer 3 has a band in both, layer 4 only in the arm: a copy of the layer that was loaded."""
    one = fit(folder, "late")
    model = LitArm(one.plan()["recipe"], 5, one.plan()["start"]).model
    layers = model.language_model.layers
    released = load_file(folder / "released" / "model.safetensors")
    wanted = released["language_model.layers.4.self_attn.k_proj.weight"]
    assert torch.equal(layers[4].self_attn.k_proj.weight, wanted)
    own = dict(layers[4].band.sharing.named_parameters())
    assert torch.equal(next(p for name, p in own.items() if "k_proj" in name), wanted)
    bridge = {n: t for n, t in released.items() if ".layers.3.band.bridge" in n}
    state = model.state_dict()
    assert bridge and all(torch.equal(state[name], tensor) for name, tensor in bridge.items())


def test_what_further_sets_need_is_made_before(folder: Path) -> None:
    one = fit(folder, "tuned")
    jobs, needs = prepare_jobs([one], folder / "runs", 1)
    assert [job.kind for job in jobs] == ["data", "data", "features"]
    assert needs[one.key] == [job.key for job in jobs]
    worlds = [job.args["section"]["world"] for job in jobs[:2]]
    assert [world["test"] for world in worlds] == [6, 5]


def test_a_broken_model_is_refused_before_anything_begins(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "released", tmp_path / "released")
    recipe = tmp_path / "small.yaml"
    recipe.write_text((folder / "small.yaml").read_text())
    weights = tmp_path / "released" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: .*cut off"):
        run_study(load_recipe(recipe), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_weights_in_several_files_and_broken_ones(folder: Path, tmp_path: Path) -> None:
    one = fit(folder, "tuned")
    whole = load_file(folder / "released" / "model.safetensors")
    names = sorted(whole)
    where: dict[str, str] = {}
    for file, part in (("a.safetensors", names[:40]), ("b.safetensors", names[40:])):
        save_file({n: whole[n] for n in part}, tmp_path / file)
        where |= dict.fromkeys(part, file)
    stale = {n: torch.zeros_like(tensor) for n, tensor in whole.items()}
    save_file(stale, tmp_path / "model-00001-of-1.safetensors")  # no part of the model
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    model = LitArm(one.plan()["recipe"], 5).model
    load_arm(model, tmp_path)
    assert all(torch.equal(model.state_dict()[name], whole[name]) for name in names)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LabError, match=r"model\.safetensors cannot be read as safetensors"):
        load_arm(model, tmp_path)
