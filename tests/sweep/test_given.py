"""Settings that are tried first: their place in the space, or that they have none."""

import pytest

from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.pricing import costs_of_arm

SPACE = """\
budget: {prefill: {share: 0.5, of: all}}
search:
  model.bridge: [none, {type: mlp}]
  model.band.length: {from: 0, to: 4}
  model.band.start: {from: 0, to: 5}
  model.anchors.count: {from: 0, to: 143}
begin_with:
"""


def given(write, text):
    """The first setting of a sweep."""
    return load_sweep(write(SPACE + f"  one: {text}\n")).given[0]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("paper", ("{type: mlp}", 2, 2, 8)),
        ("{}", ("{type: mlp}", 2, 2, 8)),
        ("{model.bridge: none, model.band.start: 4}", ("none", 2, 4, 8)),
        ("{model.band: [1, 2, 3]}", ("{type: mlp}", 3, 1, 8)),
        ("{model.band: none}", ("none", 0, 0, 8)),
        ("{model.band.length: 0, model.anchors.count: 20}", ("none", 0, 0, 20)),
        ("{model.sharing: shared}", ("{type: mlp}", 2, 2, 8)),
        ("{model.band: [1, 3]}", None),  # no such band in the space
        ("{model.sharing: separate}", None),
        ("{train.steps: 3}", None),
        ("{model.anchors.count: 100}", None),  # too dear
        ("all", None),
    ],
)
def test_place_in_the_space(write, written, values):
    one = given(write, written)
    if values is None:
        assert one.values is None
        return
    keys = ("model.bridge", "model.band.length", "model.band.start", "model.anchors.count")
    found = [one.values[key] for key in keys]
    assert [{"type": "mlp"} if values[0] != "none" else "none", *values[1:]] == found


def test_the_largest_that_fits(write):
    sweep = load_sweep(
        write(SPACE + "  plain: {model.band.length: 0, model.anchors.count: largest}\n")
    )
    (one,) = sweep.given
    (limit,) = sweep.limits
    costs = [
        costs_of_arm(sweep.arm("x", one.values | {"model.anchors.count": count}))["prefill"]
        for count in (one.values["model.anchors.count"], one.values["model.anchors.count"] + 1)
    ]
    assert costs[0] <= limit.value < costs[1]


def test_the_largest_of_a_range_with_holes(write):
    sweep = load_sweep(
        write(SPACE + "  grid: {model.anchors.type: pool, model.anchors.count: largest}\n"),
        ["search.model.anchors.count.step=none"],
    )
    assert sweep.given[0].changes["model"]["anchors"]["count"] in (4, 9, 16, 25)


def test_a_setting_knows_its_arm(write):
    sweep = load_sweep(write(SPACE + "  a: paper\n  b: {model.band: [1, 3]}\n"))
    paper, other = sweep.given
    assert sweep.arm("a", paper.changes).hash == sweep.arm("x", paper.values).hash
    assert sweep.arm("b", other.changes).spec.band == (1, 3)
    names = load_sweep("search.yaml", ["begin_with=[paper]"]).given
    assert [one.name for one in names] == ["paper"]


def test_keys_beside_the_model(write):
    text = """\
        search:
          train.lr: {from: 1e-4, to: 1e-2, log: true}
          train.clip: [none, 1.0]
          model.reducer.keep: {from: 0, to: 8}
        model.reducer: {type: drop, layer: 3, keep: 5}
        begin_with:
          a: {}
          b: {train.lr: 2e-3, train.clip: none}
          c: {train.lr: 0.1}
    """
    a, b, c = load_sweep(write(text)).given
    assert a.values == {"train.lr": 5e-4, "train.clip": 1.0, "model.reducer.keep": 5}
    assert b.values == {"train.lr": 2e-3, "train.clip": "none", "model.reducer.keep": 5}
    assert c.values is None
