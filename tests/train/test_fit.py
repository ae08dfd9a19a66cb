"""One fit from nothing to its result on a tiny world: trained, answered, priced, measured."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from eramv_lab.errors import LabError
from eramv_lab.evaluate.generate import batches
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.recipe.connecting import told_anew
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.report.plots import read_curve
from eramv_lab.report.runs import read_run
from eramv_lab.train.fit import fit_one
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import Fit, clear, fit_of
from eramv_lab.train.row import answer
from eramv_lab.train.start import load_arm, load_base

RECIPE = """
model:
  vision: {type: tiny, width: 32, layers: 1}
  anchors: {type: cls_topk, count: 8}
  connector: mlp2x_gelu
  language: {type: tiny, width: 48, layers: 4, ffn: 64}
  band: {start: 2, length: 2}
  bridge: low_rank
data: {folder: FOLDER, world: {train: 12, test: 6, val: 4, questions: 4}}
train: {steps: 4, images: 3, questions: 4, validate_every: 2, validate_images: 4, log_every: 1}
evaluate: {batch: 2}
trainer: {accelerator: cpu}
arms:
  first: {}
  second: {base.arm: first, model.sharing: separate, train.steps: 1, train.images: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit")
    (path / "small.yaml").write_text(RECIPE.replace("FOLDER", str(path / "data")))
    return path


def fit(folder: Path, name: str, where: str = "runs") -> Fit:
    arm = load_recipe(folder / "small.yaml").arms[name]
    return fit_of(arm, 5, "small", folder / where)


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A base as its three files, of random weights that no seed of an arm gives."""
    lit = LitArm(fit(folder, "first").plan()["recipe"], 77)
    parts = {
        "vision": lit.model.vision_tower,
        "connector": lit.model.connector,
        "language": lit.model.language_model,
    }
    (folder / "base").mkdir()
    for name, part in parts.items():
        state = {k: v for k, v in part.state_dict().items() if ".band." not in k}
        save_file(state, folder / "base" / f"{name}.safetensors")
    return folder / "base"


@pytest.fixture(scope="module")
def finished(folder: Path, base: Path) -> Path:
    first = fit(folder, "first")
    clear(first)
    fit_one(first.folder, first.plan() | {"start": {"base": str(base)}})
    return first.folder


def test_a_fit_leaves_its_files(folder: Path, finished: Path) -> None:
    run = read_run(finished)
    assert run is not None and run.arm == "first" and run.seed == 5
    keys = (
        "accuracy accuracy_low accuracy_high n loss prefill_tflops train_pflops parameters "
        "trainable visual_tokens fine_tokens kv_mib latency_ms latency_spread_ms peak_mib seconds"
    )
    assert set(keys.split()) <= set(run.row)
    assert run.row["n"] == len(run.answers) == 24
    assert run.row["accuracy"] == pytest.approx(sum(a.score for a in run.answers.values()) / 24)
    assert 0 < run.row["trainable"] < run.row["parameters"]
    assert run.row["train_pflops"] > 4 * 3 * run.row["prefill_tflops"] / 1000
    assert sum(t["n"] for t in run.result["per_type"].values()) == 24
    assert len(read_curve(finished / "curves.csv", "val/accuracy")) == 2
    assert len(read_curve(finished / "curves.csv", "train/loss")) == 4
    assert json.loads((finished / "progress.json").read_text())["done"] == 1
    assert yaml.safe_load((finished / "recipe.yaml").read_text()) == run.result["recipe"]
    assert fit(folder, "first").result() == run.result
    assert not (finished / "error.txt").exists()


def test_the_same_fit_again_gives_the_same_weights(
    folder: Path, base: Path, finished: Path
) -> None:
    again = fit(folder, "first", "again")
    clear(again)
    fit_one(again.folder, again.plan() | {"start": {"base": str(base)}})
    one, two = (load_file(f / "model.safetensors") for f in (finished, again.folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [(f / "predictions.jsonl").read_text() for f in (finished, again.folder)]
    assert lines[0] == lines[1]


def test_the_saved_model_answers_the_same(folder: Path, finished: Path) -> None:
    from eramv_lab.data.module import LabData

    arm = fit(folder, "first").plan()["recipe"]
    lit = LitArm(arm, 0)
    lit.model = EramvForConditionalGeneration.from_pretrained(finished)
    scored = answer(lit, LabData(arm, seed=0, shown=False))  # from pixels
    before = [json.loads(x) for x in (finished / "predictions.jsonl").read_text().splitlines()]
    after = list(scored.rows())
    assert [r["prediction"] for r in after] == [r["prediction"] for r in before]
    assert [r["nll"] for r in after] == pytest.approx([r["nll"] for r in before], abs=1e-2)


def test_the_split_that_is_answered(folder: Path, finished: Path) -> None:
    from eramv_lab.data.module import LabData

    arm = fit(folder, "first").plan()["recipe"]
    keys = {}
    for split, images in (("test", 6), ("val", 4)):
        data = LabData(arm | {"evaluate": arm["evaluate"] | {"split": split}}, seed=0, shown=False)
        keys[split] = {row["key"] for row in answer(LitArm(arm, 0), data).rows()}
        assert len(keys[split]) == 4 * images
    assert not keys["test"] & keys["val"]


def test_an_arm_starts_from_another(folder: Path, finished: Path) -> None:
    second = fit(folder, "second")
    assert second.start() == {"arm": str(finished)}
    clear(second)
    result = fit_one(second.folder, second.plan())
    assert result["arm"] == "second"


def test_a_result_is_never_overwritten(folder: Path, finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    with pytest.raises(FileExistsError):
        fit_one(finished, fit(folder, "first").plan())
    with pytest.raises(LabError):
        clear(fit(folder, "first"))
    assert (finished / "result.json").read_bytes() == before


def test_an_exception_leaves_an_error_and_no_result(folder: Path, tmp_path: Path) -> None:
    plan = fit(folder, "first").plan() | {"start": {"base": str(tmp_path / "nowhere")}}
    with pytest.raises(FileNotFoundError):
        fit_one(tmp_path / "run", plan)
    assert "nowhere" in (tmp_path / "run" / "error.txt").read_text()
    assert not (tmp_path / "run" / "result.json").exists()


def test_load_base_fills_the_old_and_keeps_the_new(folder: Path, base: Path) -> None:
    arm = fit(folder, "first").plan()["recipe"]
    fresh, lit = LitArm(arm, 5), LitArm(arm, 5)
    load_base(lit.model, base)
    state, before = lit.model.state_dict(), fresh.model.state_dict()
    tower = load_file(base / "vision.safetensors")
    assert all(torch.equal(state[f"vision_tower.{k}"], v) for k, v in tower.items())
    language = load_file(base / "language.safetensors")
    assert all(torch.equal(state[f"language_model.{k}"], v) for k, v in language.items())
    new = [k for k in state if ".band." in k]
    assert new and all(torch.equal(state[k], before[k]) for k in new)


def test_another_connector_begins_anew(folder: Path, base: Path) -> None:
    plan = fit(folder, "first").plan()
    model = plan["recipe"]["model"]
    changes = {"connector": {"type": "acformer", "layers": 1}, "fine_connector": model["connector"]}
    arm = plan["recipe"] | {"model": model | changes}
    fresh, lit = LitArm(arm, 5), LitArm(arm, 5)
    load_base(lit.model, base)
    state, before = lit.model.state_dict(), fresh.model.state_dict()
    new = [k for k in state if k.startswith("connector.")]
    assert new and all(torch.equal(state[k], before[k]) for k in new)
    taught = load_file(base / "connector.safetensors")
    assert all(torch.equal(state[f"fine_connector.{k}"], v) for k, v in taught.items())
    (line,) = told_anew(lit.spec, {"base": str(base)})
    assert line == "connector acformer begins anew: the base has mlp2x_gelu"
    assert told_anew(fit(folder, "first").arm.spec, {"base": str(base)}) == []


def test_separate_weights_start_from_the_bases_own(folder: Path, base: Path) -> None:
    lit = LitArm(fit(folder, "second").plan()["recipe"], 5)
    load_base(lit.model, base)
    layer = lit.model.language_model.layers[2]
    found = {k.rsplit(".", 2)[-2]: v for k, v in layer.band.sharing.state_dict().items()}
    assert torch.equal(found["k_proj"], layer.self_attn.k_proj.weight)


@pytest.mark.parametrize("share", ["layer", "band"])
def test_projectors_start_as_the_connector_that_the_base_has(folder, base, share: str) -> None:
    plan = fit(folder, "first").plan()
    bridge = {"type": "projector", "init": "connector", "share": share}
    arm = plan["recipe"] | {"model": plan["recipe"]["model"] | {"bridge": bridge}}
    lit = LitArm(arm, 5)
    load_base(lit.model, base)
    layers = lit.model.language_model.layers
    states = torch.randn(2, 7, lit.model.spec.dims().vision.width)
    own = [layer.band.bridge for layer in layers if layer.band is not None]
    bridges = own if share == "layer" else [lit.model.shared_bridge]
    for bridge in bridges:
        assert torch.equal(bridge(states, layer=layers[2]), lit.model.connector(states))
    weights = {w.data_ptr() for part in (*bridges, lit.model.connector) for w in part.parameters()}
    assert len(weights) == 4 * (len(bridges) + 1), "each has weights of its own"
    lit.model.save_pretrained(folder / f"learnt_{share}")  # and what has learnt is taken as it is
    tensors = load_file(file := folder / f"learnt_{share}" / "model.safetensors")
    learnt = [name for name in tensors if name.endswith("bridge.up.weight")]
    save_file(tensors | {name: tensors[name] + 1 for name in learnt}, file)
    load_arm(lit.model, file.parent)
    state = lit.model.state_dict()
    assert learnt and all(torch.equal(state[name], tensors[name] + 1) for name in learnt)


def test_a_base_that_lacks_a_tensor_is_named(folder: Path, base: Path, tmp_path: Path) -> None:
    for part in base.glob("*.safetensors"):
        tensors = load_file(part)
        tensors.pop("norm.weight", None) if part.stem == "language" else None
        save_file(tensors, tmp_path / part.name)
    lit = LitArm(fit(folder, "first").plan()["recipe"], 5)
    with pytest.raises(LabError, match=r"language_model\.norm\.weight is missing"):
        load_base(lit.model, tmp_path)


def test_load_arm_refuses_another_shape(folder: Path, finished: Path, tmp_path: Path) -> None:
    tensors = load_file(finished / "model.safetensors")
    tensors["language_model.norm.weight"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors")
    lit = LitArm(fit(folder, "first").plan()["recipe"], 5)
    with pytest.raises(LabError, match=r"norm\.weight is \[3\], the arm needs \[48\]"):
        load_arm(lit.model, tmp_path)


def test_a_checkpoint_loads_without_unpickling(folder: Path, tmp_path: Path) -> None:
    import lightning.pytorch as pl

    lit = LitArm(fit(folder, "first").plan()["recipe"], 5)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.strategy.connect(lit)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    again = LitArm.load_from_checkpoint(tmp_path / "some.ckpt", weights_only=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(lit.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_batches_hold_prompts_of_one_length() -> None:
    found = list(batches([2, 1, 2, 2, 1], 2))
    assert found == [[1, 4], [0, 2], [3]]
