"""The closed form meets the reference values, and its parts behave as prices should."""

import subprocess
import sys

import pytest

from eramv_lab.cost.formula import price

from .shapes import anchors, scale, tiny

BODY = {  # TFLOPs of the decoder by visual rows, 64 of text; KV MiB
    0: (0.8311, 32),
    1: (0.8441, 32.5),
    65: (1.6795, 64.5),
    145: (2.7299, 104.5),
    192: (3.3501, 128),
    257: (4.2116, 160.5),
    576: (8.5040, 320),
}


@pytest.mark.parametrize("visual", BODY)
def test_body_and_cache_of_7b(visual):
    tera, mib = BODY[visual]
    if visual:
        cost = price(scale("llava15_7b", anchors=anchors(visual, cls=visual % 2 == 1)))
    else:  # a model without anchors needs a band to see anything: a part and a cache of its own
        cost = price(scale("llava15_7b", anchors="none", band=[0]))
    fine = 2 * 4096 * cost.fine_tokens * 2
    assert round(cost.parts["language"] / 1e12, 4) == tera
    assert (cost.kv_bytes - fine) / 2**20 == mib
    assert cost.visual_tokens == visual


def test_llava_7b_to_the_last_digit():
    cost = price(scale("llava15_7b"))
    assert cost.parameters == 7_063_427_072
    assert cost.parameters_by_role["vision"] == 303_507_456
    assert cost.parameters_by_role["connector"] == 20_979_712
    assert cost.parameters_by_role["language"] == 6_738_939_904
    assert round(cost.column("vision") / 1e9, 3) == 366.034  # 23 layers; 24 would be 381.918
    assert round(cost.column("connector") / 1e9, 2) == 24.16
    assert cost.column("head") == 2 * 4096 * 32064
    # the facts' 8.9104 has 24 layers of the tower in it
    assert round((cost.prefill + (381_918 - 366_034) * 10**6) / 1e12, 4) == 8.9104
    assert round(cost.decode / 1e9, 2) == 13.55


def test_llava_13b():
    cost = price(scale("llava15_13b"))
    assert cost.parameters == 13_351_494_656
    assert cost.parameters_by_role["connector"] == 31_467_520
    assert cost.kv_bytes == 500 * 2**20
    assert round(cost.column("connector") / 1e9, 2) == 36.24


BRIDGES = {  # LLM with its band and bridge, TFLOPs at 8 and at 16 layers; parameters, M
    "none": (1.999, 2.317, 0, 0),
    "mlp": (2.308, 2.936, 268, 537),
    "projector": (2.192, 2.704, 168, 336),
    "ffn": (3.245, 4.811, 0, 0),
    "low_rank": (2.018, 2.356, 16.8, 33.6),
}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_bridges_of_eramv_7b(bridge):
    config = {"type": "low_rank", "rank": 256} if bridge == "low_rank" else bridge
    small, large, new_small, new_large = BRIDGES[bridge]
    for start, length, tera, new in ((12, 8, small, new_small), (8, 16, large, new_large)):
        band = {"start": start, "length": length}
        cost = price(scale("eramv_7b", bridge=config, band=band))
        body = cost.column("llm") + cost.column("bridge")
        assert body / 1e12 == pytest.approx(tera, abs=6e-4)
        assert cost.parameters_by_role.get("bridge", 0) / 1e6 == pytest.approx(new, rel=4e-3)
        assert cost.kv_bytes / 2**20 == 64.5 + 9 * length
        assert cost.fine_tokens == 576


def test_one_bridge_for_the_band_costs_one_application_and_one_set_of_weights():
    each = price(scale("eramv_7b"))
    once = price(scale("eramv_7b", bridge={"type": "mlp", "share": "band"}))
    carried = price(scale("eramv_7b", bridge={"type": "mlp", "share": "band", "carry": True}))
    assert each.column("bridge") == 16 * once.column("bridge") == carried.column("bridge")
    assert once.parameters == carried.parameters


COMPARED = {  # reducers over LLaVA-1.5 7B: LLM TFLOPs
    ("fastv", 2, 0.5): 4.867,
    ("fastv", 2, 0.75): 3.078,
    ("fastv", 2, 0.9): 2.020,
    ("vtw", 8, None): 2.749,
    ("vtw", 15, None): 4.428,
    ("vtw", 16, None): 4.668,
}


@pytest.mark.parametrize("kind, layer, ratio", COMPARED)
def test_reducers(kind, layer, ratio):
    reducer = {"type": kind, "layer": layer} | ({"ratio": ratio} if ratio else {})
    cost = price(scale("llava15_7b", reducer=reducer))
    assert cost.column("llm") / 1e12 == pytest.approx(COMPARED[kind, layer, ratio], abs=6e-4)
    ranking = 2 * 640 * 4096 if kind == "fastv" else 0
    assert cost.parts["reducer"] == ranking


def test_pyramiddrop_as_drops():
    drops = [
        {"type": "drop", "layer": layer, "keep": keep}
        for layer, keep in ((8, 288), (16, 144), (24, 72))
    ]
    cost = price(scale("llava15_7b", reducer=drops))
    assert cost.column("llm") / 1e12 == pytest.approx(4.404, abs=6e-4)
    assert cost.parts["reducer"] == 2 * 4096 * (640 + 352 + 208)


def test_training_follows_from_what_learns():
    spec = scale("llava15_7b")

    def ratio(**roles):
        cost = price(spec, train=roles, cached_vision=True)
        return cost.train / (cost.prefill - cost.column("vision"))

    assert ratio(connector="full", language="full") == pytest.approx(2.998, abs=2e-3)
    assert ratio(connector="full") == pytest.approx(2.02, abs=0.01)  # not once: it crosses the LLM
    assert ratio() == 1
    everything = price(spec, train=dict.fromkeys(("vision", "connector", "language"), "full"))
    assert everything.trainable == everything.parameters
    assert everything.train > price(spec).train


def test_the_lowest_trained_layer_decides():
    learn = {"bridge": "full"}
    low, high = (
        price(tiny(band={"start": start, "length": 2}), train=learn).train for start in (0, 4)
    )
    assert low > high


def test_bytes_are_those_of_the_batch_and_flops_of_one():
    one, four = price(tiny()), price(tiny(), batch=4)
    assert four.prefill == one.prefill and four.train == one.train
    assert four.kv_bytes == 4 * one.kv_bytes
    assert four.activation_bytes == 4 * one.activation_bytes


def test_rows_and_json_sum_up():
    cost = price(scale("eramv_7b"))
    rows = cost.rows()
    assert rows[-1] == ("prefill", cost.prefill / 1e12, 1)
    assert sum(share for _, _, share in rows[:-1]) == pytest.approx(1)
    flat = cost.to_json()
    columns = ("vision", "connector", "bridge", "llm", "head")
    assert sum(flat[f"{c}_tflops"] for c in columns) == pytest.approx(flat["prefill_tflops"])
    assert all(isinstance(value, int | float) for value in flat.values())


def test_more_text_more_anchors_more_layers_cost_more():
    costs = [price(tiny(anchors=anchors(n))).prefill for n in (2, 9, 40)]
    assert costs == sorted(set(costs))
    costs = [price(tiny(band={"start": 0, "length": n})).prefill for n in (1, 3, 6)]
    assert costs == sorted(set(costs))
    costs = [price(tiny(), text_tokens=n).prefill for n in (8, 64, 256)]
    assert costs == sorted(set(costs))


def test_importing_the_formula_brings_no_torch():
    code = (
        "import sys, eramv_lab.cost.formula, eramv_lab.cost.budget, eramv_lab.cost.conventions;"
        "print([m for m in ('torch', 'transformers', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
