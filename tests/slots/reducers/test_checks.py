"""What reducers say of a recipe that cannot be, and what they make of one that can."""

from typing import Any

import pytest
from laws.settings import TINY, with_keys

from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.slots.reducers import Event
from eramv_lab.slots.reducers.pyramiddrop import PyramidDropConfig
from eramv_lab.slots.reducers.shortv import PUBLISHED, ShortvConfig, published_order

MODEL = with_keys(TINY, anchors="all", prompt="image_first", band="none")
LATE = {"type": "late", "layer": 2}
FASTV = {"type": "fastv", "layer": 2}
WRONG: list[tuple[Any, str]] = [
    ({"type": "drop", "layer": 4, "keep": 1}, "layer 4 is outside the language model"),
    ({"type": "drop", "layer": 0, "keep": 1}, "no layer before it to rank by"),
    ([FASTV, {"type": "drop", "layer": 2, "keep": 1}], "two removals before layer 2"),
    ([LATE, {"type": "vtw", "layer": 1}], "a drop before layer 1 has nothing to drop"),
    ([LATE, FASTV], "layer 2 is where rows enter: the layer before cannot rank"),
    ([LATE, {"type": "late", "layer": 3}], "rows enter once"),
    ({"type": "late", "layer": 2, "exit": 2}, "exit 2 is not after layer 2"),
    ({"type": "late", "layer": 4}, "layer 4 is outside"),
    ({"type": "pyramiddrop", "layers": [3, 1]}, "expected ascending"),
    ({"type": "pyramiddrop", "layers": [1, 1]}, "expected ascending, each once"),
    ({"type": "pyramiddrop", "layers": [1, 2], "keep": [3]}, "expected 2 numbers"),
    ({"type": "pyramiddrop", "layers": [1, 2], "keep": [1, 3]}, "more rows than the one before"),
    (
        {"type": "pyramiddrop", "layers": [1, 2], "keep": [99, 3]},
        "expected 0 to 16, the visual rows",
    ),
    ({"type": "pyramiddrop", "layers": [5]}, "layers: 5 is outside"),
    ({"type": "pyramiddrop", "layers": []}, "expected the first layer of one stage"),
    ({"type": "pyramiddrop", "ratio": 1.5}, "ratio 1.5: expected 0 to 1"),
    ({"type": "shortv", "active": 5}, "active 5: expected 0 to 4"),
    ({"type": "shortv", "order": [1, 1]}, "expected layers 0 to 3, each once"),
    ({"type": "shortv", "active": 1, "order": [0, 1]}, "order names 2 layers, 3 are to freeze"),
    ({"type": "shortv", "order": "random"}, "order"),
    ({"type": "sparsevlm", "layers": [3], "keep": [1]}, "the last, nothing can leave"),
    ({"type": "sparsevlm", "layers": [0, 1], "keep": [1]}, "expected 2 counts"),
    ({"type": "sparsevlm", "tokens": 0}, "tokens 0: expected >= 1"),
    ({"type": "sparsevlm", "tau": 2.0}, "tau 2.0: expected 0 to 1"),
]


@pytest.mark.parametrize(("reducer", "text"), WRONG)
def test_what_cannot_be_is_told(reducer: Any, text: str):
    problems: list[Any] = []
    assert parse_model(with_keys(MODEL, reducer=reducer), problems) is None
    assert any(text in p.message or text in (p.key or "") for p in problems), problems


@pytest.mark.parametrize(
    "name", ["pyramiddrop", "shortv", "sparsevlm", {"type": "late", "layer": 1}]
)
def test_without_visual_rows_there_is_nothing_to_do(name: Any):
    problems: list[Any] = []
    assert parse_model(with_keys(TINY, anchors="none", reducer=name), problems) is None
    assert any("there are no visual rows" in p.message for p in problems)


def test_stages_of_a_pyramid():
    events = PyramidDropConfig().events(32, 576)
    assert [(e.layer, e.keep) for e in events] == [(8, 288), (16, 144), (24, 72)]
    assert [e.layer for e in PyramidDropConfig().events(8, 144)] == [2, 4, 6]
    given = PyramidDropConfig(layers=(3, 4, 4, 5), keep=(54, 3, 1, 0)).events(8, 144)
    assert [(e.layer, e.keep) for e in given] == [(3, 54), (4, 1), (5, 0)]  # the last at a layer


def test_the_published_order_scales():
    assert published_order(32)[:19] == PUBLISHED[32]
    assert published_order(32)[19:] == (16, 15, 14, 13, 11, 10, 9, 8, 7, 6, 5, 4, 1)
    assert published_order(40)[:24] == PUBLISHED[40]
    assert published_order(8) == (7, 6, 5, 0, 4, 3, 2, 1)
    for layers in (1, 3, 8, 12, 24, 64):
        assert sorted(published_order(layers)) == list(range(layers))
    active = set(range(32)) - set(ShortvConfig().frozen(32))
    assert active == {1, *range(4, 12), *range(13, 17)}  # facts of LLaVA-1.5-7B
    assert len(ShortvConfig().frozen(40)) == 24


def test_events_know_what_is_left():
    event = Event(layer=1, keep=5, recycled=4, made=2)
    assert [event.left(n) for n in (5, 6, 7, 20)] == [5, 6, 7, 7]
