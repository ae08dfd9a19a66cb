"""Published numbers that no recipe has, each met under the convention that its authors used.

Those of recipes are in `test_published`.
"""

import pytest

from eramv_lab.cost.conventions import FASTV, NAMED, PYRAMIDDROP, SHORTV
from eramv_lab.cost.flow import live_by_layer
from tests.cost.papers import SEVEN, THIRTEEN, body, layer, stages
from tests.cost.shapes import anchors, scale


def image_only(*tokens, layers=32):
    each = layers // len(tokens)
    return body(PYRAMIDDROP, [n for n in tokens for _ in range(each)], *SEVEN) / 1e12


def test_pyramiddrop_table_of_five_views():
    assert image_only(2880) == pytest.approx(20.8, rel=2e-3)
    half = body(PYRAMIDDROP, stages(2880, 32, (2, 1440)), *SEVEN) / 1e12
    assert half == pytest.approx(10.6, rel=5e-3)
    assert image_only(2880, 1440, 720, 360) == pytest.approx(9.46, abs=6e-3)


@pytest.mark.parametrize("ratio, published", [(0.4, 8.22), (0.6, 11.0)])
def test_pyramiddrop_ratios_of_five_views(ratio, published):
    tokens = [int(2880 * ratio**i) for i in range(4)]
    assert image_only(*tokens) == pytest.approx(published, rel=3e-3)


def test_fastv_13b_k5_r90_is_of_a_part_of_a_row():
    """57.6 rows are a tenth of 576; the recipe keeps 58 (`test_published`)."""
    found = body(FASTV, stages(576, 40, (5, 57.6)), *THIRTEEN) / 1e9
    assert found == pytest.approx(39.6, abs=0.05)


def test_hidrop_by_its_mean():
    assert image_only(576) == pytest.approx(3.82, abs=0.005)
    assert image_only(63) == pytest.approx(0.42, abs=0.012)


def test_what_conventions_say_of_themselves():
    said = {name: one.says() for name, one in NAMED.items() if one is not None}
    assert "two matrices" in said["fastv"] and "mean over the layers" in said["fastv"]
    assert "image's tokens alone" in said["pyramiddrop"] and "FLOPs" in said["shortv"]
    assert all("bridge" in one and "left out" in one for one in said.values())


@pytest.mark.parametrize("convention", [one for one in NAMED.values() if one is not None])
def test_without_a_band_it_is_the_papers_formula(convention):
    cut = {"type": "drop", "layer": 16, "keep": 10}
    spec = scale("eramv_7b", band="none", reducer=cut)
    visual = live_by_layer(spec, 0)
    assert visual == [65] * 16 + [10] * 16
    assert convention.prefill(spec) == pytest.approx(body(convention, visual, *SEVEN), rel=1e-12)


def test_a_band_is_keys_values_scores_and_its_bridge():
    """A layer that reads: arXiv 2504.00502, section 3.3, and the bridge's two matrices."""
    width, ffn = SEVEN
    band, plain = (scale("eramv_7b", band=layers) for layers in ({"layers": [1, 3]}, "none"))
    reads = 2 * 129 * (4 * width + 3 * ffn) * width + 4 * 576 * width**2
    reads += 4 * 129 * (129 + 576) * width
    bridge = 2 * 2 * 576 * width**2
    added = SHORTV.prefill(band) - SHORTV.prefill(plain)
    assert added == 2 * (reads - layer(SHORTV, 129, *SEVEN) + bridge)


def test_a_bridge_of_the_layers_own_feed_forward_has_as_many_matrices():
    (width, ffn), band = SEVEN, {"start": 1, "length": 8}
    for convention, unit in ((SHORTV, 2 * 3), (PYRAMIDDROP, 3), (FASTV, 2 / 32)):
        own, none = (scale("eramv_7b", bridge=one, band=band) for one in ("ffn", "none"))
        added = convention.prefill(own) - convention.prefill(none)
        assert added == pytest.approx(8 * unit * 576 * width * ffn, rel=1e-9)


def test_text_is_the_conventions_unless_asked_for():
    spec = scale("eramv_7b", anchors=anchors(65))
    assert FASTV.prefill(spec) == FASTV.prefill(spec, 36) < FASTV.prefill(spec, 64)
    assert PYRAMIDDROP.prefill(spec, 8) == PYRAMIDDROP.prefill(spec, 800)
