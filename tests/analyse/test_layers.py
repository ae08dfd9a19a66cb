"""The rules that find VTW's layer and ShortV's order, against models that have them built in."""

from typing import Any

import pytest
import torch
from laws.settings import TINY, with_keys
from laws.whole import inputs, model_of, sample
from torch.nn import functional

from eramv_lab.analyse.layers import calibration, contributions, freezing_order, withdrawal
from eramv_lab.data.collate import Collator
from eramv_lab.data.examples import Fetched
from eramv_lab.data.shards import Asked

SECTION = with_keys(TINY, anchors="all", prompt="image_first", band="none")


def prompts(model: Any) -> list[dict[str, Any]]:
    samples = [sample(model, 5), sample(model, 8, (1,)), sample(model, 6, (2,))]
    return [inputs(model, some, "left", upto="prompt") for some in (samples[:2], samples[2:])]


def by_hand(reducer: dict[str, Any]) -> float:
    """Mean of `KLDivLoss(log-softmax(whole), softmax(changed))` over the prompts, one by one."""
    whole, changed = model_of(SECTION), model_of(with_keys(SECTION, reducer=reducer))
    found: list[float] = []
    for words, picture in ((5, 0), (8, 1), (6, 2)):
        batch = inputs(whole, [sample(whole, words, (picture,))], upto="prompt")
        with torch.no_grad():
            one, two = whole(**batch).logits[0, -1], changed(**batch).logits[0, -1]
        loss = functional.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="sum")
        found.append(float(loss))
    return sum(found) / len(found)


def test_withdrawal_is_measured_as_the_authors_do():
    model = model_of(SECTION)
    found = withdrawal(model, prompts(model), first=1)
    assert list(found.divergences) == [1, 2, 3]
    for layer, divergence in found.divergences.items():
        assert divergence == pytest.approx(by_hand({"type": "vtw", "layer": layer}), rel=1e-3)
        assert divergence > 0


def test_the_first_layer_within_the_tolerance_is_taken():
    model = model_of(SECTION)
    divergences = withdrawal(model, prompts(model), first=1).divergences
    for layer in divergences:
        found = withdrawal(model, prompts(model), first=1, tolerance=divergences[layer])
        assert found.layer == min(k for k, d in divergences.items() if d <= divergences[layer])
    assert withdrawal(model, prompts(model), tolerance=0.0).layer is None


def test_contributions_are_those_of_one_frozen_layer():
    model = model_of(with_keys(SECTION, reducer={"type": "fastv"}))  # its own is set aside
    found = contributions(model, prompts(model))
    for layer, divergence in found.items():
        rest = [other for other in range(4) if other != layer]
        shortv = {"type": "shortv", "active": 3, "order": [layer, *rest]}
        assert divergence == pytest.approx(by_hand(shortv), rel=1e-3, abs=1e-6)
    assert found[3] == pytest.approx(0, abs=1e-9)  # nobody reads what the last layer makes of them
    order = freezing_order(found)
    assert order[0] == 3 and [found[i] for i in order] == sorted(found.values())
    assert len(model.events) == 1


def test_prompts_of_a_split():
    model = model_of(SECTION)
    side = model.dims.vision.image
    asked = [
        Asked(f"{n}", "is there a red circle" if n else "color of digit 3", "yes", "k")
        for n in range(5)
    ]

    class Split:
        def __len__(self) -> int:
            return 5

        def __getitems__(self, numbers: list[int]) -> Fetched:
            pixels = torch.stack([torch.full((3, side, side), 0.1 * n) for n in numbers])
            return Fetched(
                vision={"pixel_values": pixels},
                questions=[[asked[n]] for n in numbers],
                pictured=[True] * len(numbers),
            )

    collator = Collator(model.spec.prompt, model.visual_rows)
    split: Any = Split()
    one = contributions(model, calibration(split, collator, range(3), batch=3))
    two = contributions(model, calibration(split, collator, range(3), batch=2))
    assert one == pytest.approx(two, rel=1e-3, abs=1e-6) and max(one.values()) > 0
    assert len(list(calibration(split, collator, range(5), batch=2))) == 3


def test_nothing_to_measure_by_is_an_error():
    with pytest.raises(ValueError, match="no prompt"):
        contributions(model_of(SECTION), [])
