"""A tiny fit of random weights, trained for two steps, and ways to spoil it."""

import json
import shutil
from pathlib import Path

import pytest

from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.train.fit import fit_one
from eramv_lab.train.plan import clear, fit_of

RECIPE = """
model:
  vision: {type: tiny, width: 32, layers: 1}
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: {type: tiny, width: 48, layers: 3, ffn: 64}
  band: [1]
  bridge: low_rank
base: none
data: {folder: FOLDER, world: {train: 8, test: 6, val: 2, questions: 8}}
train: {steps: 2, images: 4, questions: 4, validate_every: 0, lr: 1e-2}
trainer: {accelerator: cpu}
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder with the study `small`: one arm, one seed."""
    place = tmp_path_factory.mktemp("export")
    (place / "small.yaml").write_text(RECIPE.replace("FOLDER", str(place / "data")))
    recipe = load_recipe(place / "small.yaml")
    fit = fit_of(recipe.arms["main"], 0, "small", place / "runs" / "small")
    clear(fit)
    fit_one(fit.folder, fit.plan())
    study = {"study": "small", "arms": ["main"], "seeds": [0], "recipe_file": "small.yaml"}
    (fit.folder.parent / "study.json").write_text(json.dumps(study))
    return place / "runs"


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def fit(runs: Path) -> Path:
    """The folder of its fit."""
    return next((runs / "small").glob("main-s0-*"))
