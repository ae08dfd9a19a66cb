"""The verb `analyse`: a line for each layer, reducers as a recipe takes them, clear refusals."""

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eramv_lab import cli, cli_models
from eramv_lab.analyse import fitted, layers
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.train.fit import fit_one
from eramv_lab.train.plan import clear, fit_of

Lab = Callable[..., tuple[int, str, str]]
RECIPE = """
model:
  vision: {type: tiny, width: 32, layers: 1}
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: {type: tiny, width: 48, layers: 3, ffn: 64}
  band: none
base: none
data: {folder: FOLDER, world: {train: 8, test: 6, val: 6, questions: 2}}
train: {steps: 2, images: 4, questions: 2, validate_every: 0, lr: 1e-2}
trainer: {accelerator: cpu}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny fit."""
    place = tmp_path_factory.mktemp("analyse")
    (place / "small.yaml").write_text(RECIPE.replace("FOLDER", str(place / "data")))
    fit = fit_of(load_recipe(place / "small.yaml").arms["main"], 0, "small", place / "small")
    clear(fit)
    fit_one(fit.folder, fit.plan())
    return fit.folder


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eramv-lab", "analyse", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_its_lines_are_a_recipe_s(made: Path, tmp_path: Path, lab: Lab) -> None:
    before = sorted(made.iterdir())
    words = (made, "--images", 5, "--tolerance", 100)
    code, out, err = lab(*words)
    assert (code, err) == (0, "") and "after 10 prompts about 5 images of 'val'" in out
    found = json.loads(lab(*words, "--json")[1])
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    assert found["layers"][0]["withdrawn"] is None  # no candidate of VTW's
    for row in found["layers"]:
        assert f"{abs(row['contribution']):.5f}" in out
    ranked = sorted(found["layers"], key=lambda row: row["order"])
    assert [row["contribution"] for row in ranked] == sorted(r["contribution"] for r in ranked)

    vtw, shortv = (line for line in out.splitlines() if line.startswith("model.reducer: "))
    written = (made / "recipe.yaml").read_text().replace("  reducer: none\n", "")
    for line, name in ((vtw, "vtw"), (shortv, "shortv")):
        (tmp_path / "pasted.yaml").write_text(written + line + "\n")
        (arm,) = load_recipe(tmp_path / "pasted.yaml").arms.values()
        (reducer,) = arm.spec.to_plain()["reducer"]
        assert reducer == found[name]["model.reducer"]
    assert found["vtw"]["model.reducer"]["layer"] == 1
    assert arm.spec.reducer[0].frozen(3) == tuple(found["shortv"]["frozen"])
    assert sorted(made.iterdir()) == before


def test_a_tolerance_that_no_layer_keeps_is_told(made: Path, lab: Lab) -> None:
    code, out, _ = lab(made, "--images", 1, "--tolerance", 0)
    assert code == 0 and "# VTW: no layer is within 0; the least is " in out
    assert out.count("model.reducer: ") == 1


def spoilt(made: Path, place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the fit whose result says something else."""
    folder = Path(shutil.copytree(made, place / made.name))
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_band_and_a_reducer_are_refused_together(made: Path, tmp_path: Path, lab: Lab) -> None:
    def change(result: dict[str, Any]) -> None:
        band = {"band": [1], "fine": "all", "sharing": "shared"}
        result["recipe"]["model"] |= {**band, "reducer": {"type": "fastv"}}
        result["recipe"]["train"]["steps"] = 0
        result["start"] = {"arm": "runs/small/full"}

    code, out, err = lab(spoilt(made, tmp_path, change))
    assert (code, out) == (2, "") and err.startswith("error: 2 problems")
    assert "model.band: layers 1 also take" in err and "model.reducer: fastv already" in err
    assert "its weights are those of runs/small/full: analyse that" in err


def test_a_fit_without_weights_is_told(made: Path, tmp_path: Path, lab: Lab) -> None:
    folder = spoilt(made, tmp_path, lambda result: None)
    (folder / "model.safetensors").unlink()
    code, out, err = lab(folder)
    assert (code, out) == (2, "") and "model.safetensors" in err and "Traceback" not in err


def test_its_defaults_are_those_of_the_rules() -> None:
    """Written twice, so that the command line imports nothing heavy."""
    options = inspect.signature(cli_models.analyse).parameters
    defaults = options["images"].default, options["tolerance"].default
    assert defaults == (fitted.IMAGES, layers.TOLERANCE)
