"""Every system answers fit, cost, generate, export; a new one is one component and one recipe."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eramv_lab import cli
from eramv_lab.cost.show import verify
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.train.fit import fit_one
from eramv_lab.train.plan import Fit, clear, fit_of

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "experiments" / "systems").glob("*.yaml"))
TINY = (
    *("base=none", "trainer.accelerator=cpu", "evaluate.images=2", "evaluate.batch=2"),
    *("data.world.train=8", "data.world.test=4", "data.world.val=2"),
    *("train.images=2", "train.validate_every=0", "train.checkpoint_every=0", "train.warmup=0"),
)


def fitted(file: Path, folder: Path) -> Fit:
    """The finished fit of a system, two steps on a few scenes, from random weights."""
    steps = "0" if load_recipe(file).system.training_free else "2"
    data = (f"data.folder={folder / 'data'}", f"train.steps={steps}")
    recipe = load_recipe(file, [*TINY, *data])
    fit = fit_of(recipe.arm("main"), 0, file.stem, folder / "runs" / file.stem)
    clear(fit)
    fit_one(fit.folder, fit.plan())
    return fit


@pytest.fixture
def lab(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a command line in this process and gives what it prints; it has to end well."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["eramv-lab", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            assert not ended.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of data for all of them, and a picture."""
    folder = tmp_path_factory.mktemp("systems")
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_system_answers_every_verb(file, place, lab, monkeypatch):
    monkeypatch.chdir(ROOT)
    fit = fitted(file, place)
    row = json.loads((fit.folder / "result.json").read_text())["row"]
    assert row["n"] > 0 and row["prefill_tflops"] > 0 and np.isfinite(row["loss"])
    band = fit.arm.plain["model"]["band"]
    learnt = isinstance(band, dict) and band.get("gate") in ("tanh", "channel")
    assert 0 < row["gate"] < 0.5 if learnt else "gate" not in row
    verify(fit.arm)
    out = place / "out" / file.stem
    lab("export", fit.folder, out)
    question = ("--image", place / "a.png", "--question", "what digit is in the red star")
    answers = [json.loads(lab("generate", m, *question, "--json")) for m in (fit.folder, out)]
    assert answers[0]["prediction"] == answers[1]["prediction"]


BORDER = '''
"""`border`: the patches of the outermost rings first; of no paper."""
from dataclasses import dataclass

import torch

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import CountedConfig, Selector


@dataclass(frozen=True, kw_only=True)
class BorderConfig(CountedConfig):
    """Patches from the border inwards."""


@ANCHORS.register("border", BorderConfig)
class Border(Selector):
    """Orders the grid by its distance to the border."""

    def choose(self, patches):
        h, w = patches.grid
        y_P, x_P = torch.arange(h * w) // w, torch.arange(h * w) % w
        far_P = torch.stack([y_P, x_P, h - 1 - y_P, w - 1 - x_P]).amin(0)
        index_A = far_P.argsort(stable=True)[: self.config.count].sort().values
        return index_A.to(patches.states_NPV.device).expand(len(patches.states_NPV), -1)
'''
RECIPE = """
# Does it matter at all which patches are kept?
extends: {root}/experiments/systems/llava.yaml
question: What do patches of the border reach?
plugins: [border_anchors]
system:
  name: Border
  source: none
  acts: between tower and connector
  trains: connector and language model
  exact: [all of it]
  knob: {{key: model.anchors.count, from: 1}}
model.anchors: {{type: border, count: {{rows: 64, of: 576}}}}
"""
LEAGUE = """
extends: {root}/experiments/deep.yaml
question: Which one?
league: {{systems: [{root}/experiments/systems/llava.yaml, border], full: llava, budgets: [0.35]}}
"""


@pytest.fixture
def border(tmp_path, monkeypatch) -> Path:
    """The recipe of a new system, its component beside it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("border_anchors.py").write_text(BORDER)
    Path("systems").mkdir()
    Path("systems/border.yaml").write_text(RECIPE.format(root=ROOT))
    Path("league.yaml").write_text(LEAGUE.format(root=ROOT))
    return Path("systems/border.yaml")


def test_a_new_system_is_one_component_and_one_recipe(border):
    """Nothing of ours is touched: it is read, priced to the last operation, and in the league."""
    assert load_recipe(border).system is not None
    league = load_recipe("league.yaml")
    assert list(league.arms) == ["llava", "border_35"] and not league.league.unreached
    verify(league.arm("border_35"))


@pytest.mark.slow
def test_a_new_system_is_fitted(border, tmp_path):
    row = json.loads((fitted(border, tmp_path).folder / "result.json").read_text())["row"]
    assert row["visual_tokens"] == 16 and np.isfinite(row["loss"])
