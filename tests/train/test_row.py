"""What training costs where some samples have no image."""

from dataclasses import replace
from pathlib import Path

import pytest

from eramv_lab.cost.formula import price
from eramv_lab.data.module import LabData
from eramv_lab.data.shards import Asked
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.train import row
from eramv_lab.train.module import LitArm

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
  band: {start: 2, length: 2}
  bridge: mlp
data: {folder: FOLDER, world: {train: 20, test: 4, val: 4, questions: 2}}
train: {images: 4, questions: 2, roles: {vision: full}}
trainer: {accelerator: cpu}
"""
TALK = [Asked("a", "what digit is on the red circle", "7", "digit")]


@pytest.fixture
def made(tmp_path: Path) -> tuple[LitArm, LabData]:
    (tmp_path / "small.yaml").write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    arm = load_recipe(tmp_path / "small.yaml").arms["main"].with_seed(0).plain
    return LitArm(arm, 0), LabData(arm, seed=0, shown=False)


def test_text_alone_costs_the_language_model_alone(made) -> None:
    lit, data = made
    shown, alone = (row._sample_flops(lit, data, [TALK], pictured=p) for p in (True, False))
    rows = len(data.collator.prompt_ids(TALK, False)) + 2  # the answer and its end
    language = price(
        language_only(lit), text_tokens=rows, supervised_tokens=2,
        train={"language": "full"}, cached_vision=True,
    )  # fmt: skip
    assert alone == language.train > 0
    assert shown > 2 * alone  # a tower that learns, a connector, a band


def language_only(lit: LitArm) -> ModelSpec:
    """The same language model where nothing of an image enters."""
    none = dict.fromkeys(("anchors", "fine", "fusion", "bridge", "sharing"))
    return replace(lit.spec, **none, band=(), reducer=())


def test_a_mixture_costs_the_mean_of_its_samples(made, monkeypatch) -> None:
    lit, data = made
    monkeypatch.setattr(data, "some", lambda count: [(TALK, True), (TALK, False), (TALK, False)])
    shown, alone = (row._sample_flops(lit, data, [TALK], pictured=p) for p in (True, False))
    images = lit.settings.steps * lit.settings.images
    found = row.training_flops(lit, data, 1)
    assert found == pytest.approx((shown + 2 * alone) / 3 * images)
