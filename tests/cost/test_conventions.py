"""Published numbers that no recipe has, each met under the convention that its authors used.

Those of recipes are in `test_published`.
"""

import pytest

from eramv_lab.cost.conventions import NAMED, PYRAMIDDROP, SHORTV, SPARSEVLM, stages

SEVEN = (4096, 11008)


def image_only(*tokens, layers=32):
    each = layers // len(tokens)
    return PYRAMIDDROP.body([n for n in tokens for _ in range(each)], 64, *SEVEN) / 1e12


def test_pyramiddrop_table_of_five_views():
    assert image_only(2880) == pytest.approx(20.8, rel=2e-3)
    half = PYRAMIDDROP.body(stages(2880, 32, (2, 1440)), 64, *SEVEN) / 1e12
    assert half == pytest.approx(10.6, rel=5e-3)
    assert image_only(2880, 1440, 720, 360) == pytest.approx(9.46, abs=6e-3)


@pytest.mark.parametrize("ratio, published", [(0.4, 8.22), (0.6, 11.0)])
def test_pyramiddrop_ratios_of_five_views(ratio, published):
    tokens = [int(2880 * ratio**i) for i in range(4)]
    assert image_only(*tokens) == pytest.approx(published, rel=3e-3)


def test_sparsevlm_log_by_its_mean():
    assert SPARSEVLM.body([192] * 32, 88, *SEVEN) / 1e12 == pytest.approx(1.818, rel=0.01)


def test_hidrop_by_its_mean():
    assert image_only(576) == pytest.approx(3.82, abs=0.005)
    assert image_only(63) == pytest.approx(0.42, abs=0.012)


def test_what_conventions_say_of_themselves():
    said = {name: one.says() for name, one in NAMED.items() if one is not None}
    assert "two matrices" in said["fastv"] and "mean over the layers" in said["fastv"]
    assert "image's tokens alone" in said["pyramiddrop"] and "FLOPs" in said["shortv"]


def test_tokens_that_are_read_alone_cost_keys_values_and_scores():
    width, ffn = SEVEN
    added = SHORTV.layer(64, width, ffn, 10) - SHORTV.layer(64, width, ffn)
    assert added == 2 * (2 * 10 * width**2 + 2 * 64 * 10 * width)
