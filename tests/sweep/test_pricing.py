"""Prices of settings: those of the same arm, and what a budget says of them."""

from pathlib import Path

import pytest

from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.pricing import costs_of_arm

SEARCH = "search.model.anchors.count: {from: 0, to: 20}\n"


@pytest.mark.parametrize(
    "setting",
    [
        {"model.anchors.count": 5, "model.band.length": 0},
        {"model.bridge": {"type": "low_rank", "rank": 3}, "train.steps": 7},
        {"train.epochs": 1.0, "train.images": 10, "trainer.devices": 2, "train.accumulate": 3},
        {"train.roles.language": "frozen", "model.sharing": "separate"},
    ],
)
def test_a_look_costs_what_the_arm_does(write, setting):
    sweep = load_sweep(write(SEARCH))
    assert sweep.pricer.look(setting).costs == costs_of_arm(sweep.arm("one", setting))
    assert sweep.pricer.problems(setting) == []


def test_what_is_no_model_has_no_price(write):
    sweep = load_sweep(write(SEARCH))
    wrong = {"model.band.start": 5}
    assert sweep.pricer.look(wrong) is None and not sweep.pricer.fits(wrong)
    assert sweep.pricer.faults(wrong) == {"model.band"}
    assert sweep.pricer.faults({"train.steps": "many"}) == {"train.steps"}


def test_budgets_in_numbers_and_shares(write):
    text = "budget: {prefill: {share: 0.5, of: all}, kv: 1e6, parameters: none}\n"
    sweep = load_sweep(write(SEARCH + text))
    whole = costs_of_arm(load_recipe("small.yaml").arms["all"])
    assert [(one.name, one.value, one.said) for one in sweep.limits] == [
        ("prefill", whole["prefill"] / 2, "0.5 of all"),
        ("kv", 1e6, "1e+06"),
    ]
    look = sweep.pricer.look({"model.anchors.count": 8})
    excess = look.excess(sweep.limits)
    assert excess["kv"] == look.costs["kv"] / 1e6 - 1 < 0
    dearer = load_sweep("search.yaml", ["budget.kv=10e6"])
    assert set(dearer.written["budget"]) == {"prefill", "kv", "parameters"}


def test_a_share_of_another_recipe_is_priced_for_this_ones_input(write):
    path = write(SEARCH + "budget: {prefill: {share: 1.0, of: other.yaml}}\ncost.text_tokens: 32\n")
    Path("other.yaml").write_text(Path("small.yaml").read_text().partition("arms:")[0])
    (limit,) = load_sweep(path).limits
    same = load_recipe("other.yaml", ["cost.text_tokens=32"]).arms["main"]
    assert limit.value == costs_of_arm(same)["prefill"]
    assert limit.said == "1 of other.yaml"


def test_the_same_model_in_other_words_is_one(write):
    pricer = load_sweep(write(SEARCH)).pricer
    written = (
        {"model.bridge": "mlp", "model.band.start": 2, "model.band.length": 2},
        {"model.bridge": {"type": "mlp"}, "model.band": [2, 3]},
        {"model.band": {"start": 2, "length": 2, "stride": 1}},
    )
    assert len({*map(pricer.model_of, written)}) == 1
    gone = (
        {"model.band": "none"},
        {"model.band.length": 0},
        {"model.band.length": 0, "model.bridge": "none"},
    )
    assert len({*map(pricer.model_of, gone)}) == 1
    assert pricer.model_of(gone[0]) != pricer.model_of(written[0])
