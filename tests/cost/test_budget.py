"""The knob that gives equal FLOPs: never less for the control, or a clear word why not."""

import pytest

from eramv_lab.cost.budget import solve
from eramv_lab.cost.formula import price
from eramv_lab.errors import InfeasibleError, UserError
from eramv_lab.recipe.model_spec import ModelSpec

from .shapes import anchors, scale, tiny


def plain(count: int) -> ModelSpec | None:
    return tiny(anchors=anchors(count), band="none") if count <= 145 else None


def cost(count: int) -> int:
    spec = plain(count)
    assert spec is not None
    return price(spec).prefill


def test_the_smallest_count_that_costs_no_less():
    target = price(tiny()).prefill
    count = solve(plain, target, 1, 145)
    assert cost(count) >= target > cost(count - 1)


def test_an_exact_price_is_met_exactly():
    assert all(solve(plain, cost(n), 1, 145) == n for n in (1, 2, 37, 144, 145))


def test_more_compute_never_asks_for_fewer():
    targets = range(cost(3), cost(60), (cost(60) - cost(3)) // 7)
    counts = [solve(plain, target, 1, 145) for target in targets]
    assert counts == sorted(counts)


def test_the_text_is_part_of_the_match():
    target = price(tiny(), text_tokens=16).prefill
    count = solve(plain, target, 1, 145, text_tokens=16)
    assert price(plain(count), text_tokens=16).prefill >= target


def test_counts_without_a_model_are_stepped_over():
    def squares(count: int) -> ModelSpec | None:
        return plain(count) if count in (4, 9, 16, 25, 36) else None

    assert solve(squares, cost(10), 1, 200) == 16
    assert solve(squares, cost(36), 1, 200) == 36
    with pytest.raises(InfeasibleError, match="at 36 it costs"):
        solve(squares, cost(37), 1, 200)


def test_out_of_reach_names_the_range_and_both_prices():
    with pytest.raises(InfeasibleError, match=r"from 1 to 40 reaches .* at 40 .* too little"):
        solve(plain, cost(60), 1, 40)
    with pytest.raises(InfeasibleError, match=r"from 20 to 40 is as cheap as .* at 20 .* too much"):
        solve(plain, cost(10), 20, 40)
    with pytest.raises(UserError, match="no count from 200 to 300"):
        solve(plain, cost(10), 200, 300)


def test_the_published_iso_flop_triples():
    """With 1.6795 T for 65 anchors, `none` over 16 layers buys 114, `mlp` 161 plain ones."""

    def llava(count: int) -> ModelSpec:
        return scale("llava15_7b", anchors=anchors(count))

    for bridge, expected in (("none", 114), ("mlp", 161)):
        target = price(scale("eramv_7b", bridge=bridge)).prefill
        # the facts match the decoder alone; the whole prefill has the connector's 576 rows, too
        assert expected <= solve(llava, target, 1, 576) <= expected + 2
