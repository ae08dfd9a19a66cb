"""What the reducers cost: the papers' sums, and a price that rises with each one's number."""

from typing import Any

import pytest

from eramv_lab.cost.flow import rows_by_layer, visual_rows
from eramv_lab.cost.formula import price

from .shapes import scale, tiny

LLAVA = {"anchors": "all", "band": "none", "prompt": "image_first"}
D, FFN, LAYERS, VISUAL, TEXT = 4096, 11008, 32, 576, 64
HIDROP = [
    {"type": "late", "layer": 8, "exit": 24},
    {
        "type": "pyramiddrop",
        "layers": [10, 14, 16, 18],
        "keep": [215, 10, 5, 1],
        "positions": "keep",
    },
]


def layer(live: int, rows: int) -> int:
    """MACs of a 7B layer in which `live` of its rows ask."""
    return 2 * live * D * D + 2 * rows * D * D + 2 * live * rows * D + 3 * live * D * FFN


def whole(visual: int) -> int:
    return layer(visual + TEXT, visual + TEXT)


def spec_7b(reducer: Any) -> Any:
    return scale("llava15_7b", reducer=reducer)


PUBLISHED: dict[str, tuple[Any, int]] = {
    "fastv": ({"type": "fastv"}, 2 * whole(576) + 30 * whole(288)),
    "vtw": ({"type": "vtw", "layer": 16}, 16 * whole(576) + 16 * whole(0)),
    "pyramiddrop": (
        {"type": "pyramiddrop"},
        8 * (whole(576) + whole(288) + whole(144) + whole(72)),
    ),
    "shortv": ({"type": "shortv"}, 13 * whole(576) + 19 * layer(TEXT, 576 + TEXT)),
    "shortv_fastv": (
        [{"type": "shortv"}, {"type": "fastv"}],
        whole(576) + layer(TEXT, 576 + TEXT) + 12 * whole(288) + 18 * layer(TEXT, 288 + TEXT),
    ),
    "late": ({"type": "late", "layer": 8, "exit": 24}, 16 * whole(0) + 16 * whole(576)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_sums(name: str):
    reducer, macs = PUBLISHED[name]
    cost = price(spec_7b(reducer), text_tokens=TEXT)
    assert cost.column("llm") - cost.parts["reducer"] == 2 * macs
    assert cost.parts["reducer"] < 0.01 * cost.column("llm")


@pytest.mark.parametrize(("name", "ratio"), [("fastv", 0.572), ("vtw", 0.549)])
def test_published_ratios(name: str, ratio: float):
    assert PUBLISHED[name][1] / (LAYERS * whole(576)) == pytest.approx(ratio, abs=0.001)


def test_rows_of_sparsevlm():
    spec = spec_7b({"type": "sparsevlm"})
    by_layer = visual_rows(spec)
    kept = [by_layer[0], by_layer[3], by_layer[7], by_layer[16]]
    merged = [(int(0.3 * n) + 1) // 10 + 1 for n in (276, 300 + 9 - 200, 200 + 4 - 110)]
    assert kept == [576, 300 + merged[0], 200 + merged[1], 110 + merged[2]]
    for tokens in (64, 128, 192):
        rows = visual_rows(spec_7b({"type": "sparsevlm", "tokens": tokens}))
        assert tokens - 2 < sum(rows) / LAYERS <= tokens
    assert set(visual_rows(spec_7b({"type": "sparsevlm", "tokens": 576}))) == {576}


@pytest.mark.parametrize(
    ("tokens", "keep"),
    [(192, [300, 200, 110]), (128, [303, 110, 36]), (96, [238, 48, 26]), (64, [66, 30, 17])],
)
def test_sparsevlms_own_count_is_of_the_rows_that_a_layer_hands_on(tokens: int, keep: list[int]):
    """Rows leave after layers 2, 6 and 15; theirs counts these layers without them."""
    _, *handed_on = visual_rows(spec_7b({"type": "sparsevlm", "keep": keep}))
    assert (sum(handed_on) + handed_on[-1]) // LAYERS == tokens


def test_frozen_layers_hold_all_rows():
    spec = spec_7b({"type": "shortv"})
    assert set(rows_by_layer(spec, TEXT)) == {VISUAL + TEXT}
    assert price(spec).kv_bytes == price(spec_7b("none")).kv_bytes


KNOBS: dict[str, tuple[Any, str, list[float]]] = {
    "fastv": ({"type": "fastv"}, "0.keep", [1, 50, 100, 300, 576]),
    "vtw": ({"type": "vtw"}, "0.layer", [1, 2, 15, 31]),
    "pyramiddrop": ({"type": "pyramiddrop"}, "0.ratio", [0, 0.2, 0.21, 0.5, 1]),
    "sparsevlm": ({"type": "sparsevlm"}, "0.tokens", [80, 100, 150, 200, 400]),
    "shortv": ({"type": "shortv"}, "0.active", [0, 1, 13, 32]),
    "hidrop": (HIDROP, "1.keep", [[k, 10, 5, 1] for k in (10, 87, 215, 576)]),
    "shortv_fastv": ([{"type": "shortv"}, {"type": "fastv"}], "0.active", [0, 5, 32]),
}


@pytest.mark.parametrize("name", KNOBS)
def test_the_price_rises_with_the_knob(name: str):
    reducers, knob, values = KNOBS[name]
    reducers = reducers if isinstance(reducers, list) else [reducers]
    place, key = knob.split(".")
    prices: list[int] = []
    for value in values:
        turned = [{**one, key: value} if i == int(place) else one for i, one in enumerate(reducers)]
        prices.append(price(spec_7b(turned), text_tokens=TEXT).prefill)
    assert prices == sorted(set(prices))


def test_rankings_cost_what_they_ask_for():
    base = {"type": "drop", "layer": 3, "keep": 8}
    costs = [
        price(tiny(**LLAVA, reducer=base | change), text_tokens=TEXT).parts["reducer"]
        for change in (
            {"rank": "none"},
            {},
            {"rank": "next"},
            {"rankers": "mean"},
            {"rank": "next", "rankers": "mean"},
        )
    ]
    assert costs[0] == 0 and costs == sorted(set(costs))
