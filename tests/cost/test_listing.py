"""The price list: against the full-token model, at a shape, under a convention, on a page."""

from pathlib import Path

import pytest

from eramv_lab.cost.formula import price
from eramv_lab.cost.listing import full_tokens, price_list
from eramv_lab.cost.page import page
from eramv_lab.recipe.resolve import load_recipe
from tests.cost.shapes import anchors, scale, tiny

SYSTEMS = Path(__file__).parents[2] / "experiments" / "systems"


def listed(*names, shape="llava15_7b", **more):
    recipes = [load_recipe(SYSTEMS / f"{name}.yaml", shape=shape) for name in names]
    return price_list(recipes, shape=shape, **more)


def test_shares_are_of_llava_on_the_same_parts():
    llava, plain = listed("llava", "anchors", text_tokens=64)
    assert llava.share == 1 and llava.new == plain.new == 0
    assert llava.cost.prefill == price(scale("llava15_7b"), text_tokens=64).prefill
    few = price(scale("eramv_7b", band="none", anchors=anchors(65)), text_tokens=64)
    assert plain.cost.prefill == few.prefill
    assert plain.share == few.prefill / llava.cost.prefill
    assert full_tokens(scale("eramv_7b")).dims().visual == 576
    spec = tiny(connector="linear", bridge="none")
    assert full_tokens(spec).to_plain()["connector"]["type"] == "mlp2x_gelu"


@pytest.mark.parametrize("shape, layers, width", [("llava15_13b", 40, 5120), ("100m", 12, 768)])
def test_other_shapes(shape, layers, width):
    (row,) = listed("llava", shape=shape)
    language = row.arm.spec.dims().language
    assert (language.layers, language.width) == (layers, width)
    assert row.cost.visual_tokens == 576 and row.cost.text_tokens == 64


def test_the_shape_of_a_hundred_million():
    (row,) = listed("llava", shape="100m")
    assert row.cost.parameters == pytest.approx(1e8, rel=0.1)


def test_json_has_times_by_gpu_and_batch_and_what_a_convention_counts():
    prices = listed("llava", "anchors", gpus=["h100"], convention="fastv")
    flat = prices.to_json()["recipes"]
    assert flat["llava"]["convention"] / 1e9 == pytest.approx(99.3, abs=0.05)  # its 36 text tokens
    assert flat["anchors"]["convention_share"] < 0.2
    assert flat["llava"]["h100_prefill_ms_batch_1"] == pytest.approx(9.1, abs=0.05)
    assert flat["llava"]["h100_decode_ms_batch_32"] > flat["anchors"]["h100_decode_ms_batch_32"]
    alone = listed("llava").to_json()
    assert alone["share_of_full"] == 1 and alone["new_parameters"] == 0


def test_a_page_has_every_row_and_its_command():
    prices = [listed("llava", "anchors", shape=shape) for shape in ("llava15_7b", "llava15_13b")]
    names = sorted(str(path) for path in SYSTEMS.glob("*.yaml"))
    text = page(prices, ["cost", *names, "--shape", "llava15_7b"])
    assert f"python -m eramv_lab cost {SYSTEMS}/*.yaml --shape llava15_7b\n" in text
    assert "## llava15_7b" in text and "## llava15_13b" in text
    assert text.count("| llava | 576 | 0 |") == 2 and "| 8.894 | 100.0% |" in text
    first, second = text.index("| llava |"), text.index("| anchors |")
    assert first < second  # the dearest first
    timed = page([listed("qwen_vl", gpus=["h100"])], ["cost"])
    assert "though their papers have another: qwen_vl (OpenCLIP ViT-bigG, 1024 patches)" in timed
    assert "| recipe | h100 ms b1 | h100 ms b8 | h100 ms b32 |" in timed
