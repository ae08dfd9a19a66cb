"""Law 9: every option of every component changes the output when it is turned."""

import json
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from laws.settings import CASES, Case, Turn, section_of, turned, with_keys
from laws.whole import model_of, said, sample

OPTIONS = sorted({(*case, name) for case in CASES for name, _ in turned(case)})


def shown(section: dict[str, Any], start: bool) -> Tensor:
    """Logits of a sample with two images, and of one, in rows; asked once of each section."""
    return _shown(json.dumps(section, sort_keys=True), start)


@cache
def _shown(section: str, start: bool) -> Tensor:
    model = model_of(json.loads(section), loud=not start)
    samples = [sample(model, words=6, pictures=(0, 1)), sample(model, pictures=(2,))]
    return torch.cat(said(model, samples)).double()


def differ(one: Tensor, two: Tensor) -> bool:
    return one.shape != two.shape or float((one - two).abs().max()) > 1e-4


@pytest.mark.parametrize("option", OPTIONS, ids=".".join)
def test_each_option_changes_the_output(option: tuple[str, str, str]):
    case: Case = option[:2]
    values: list[Turn] = [turn for name, turn in turned(case) if name == option[2]]
    start, context = values[0].start, dict(values[0].model)
    outputs = {"as set": shown(with_keys(section_of(case), **context), start)}
    for turn in values:
        section = with_keys(section_of(case, **{option[2]: turn.to}), **context)
        outputs[str(turn.to)] = shown(section, start)
    same = [pair for pair in combinations(outputs, 2) if not differ(*(outputs[p] for p in pair))]
    assert not same, f"{'.'.join(option)}: these are one and the same: {same}"


PLACES = {
    "early": {"start": 0, "length": 2},
    "middle": {"start": 1, "length": 2},
    "late": {"start": 2, "length": 2},
    "one": {"layers": [1]},
    "stride": {"start": 0, "length": 2, "stride": 2},
    "none": "none",
}


def test_each_band_is_a_band_of_its_own():
    outputs = {
        k: shown(section_of(("bridge", "mlp")) | {"band": v}, False) for k, v in PLACES.items()
    }
    assert all(differ(outputs[a], outputs[b]) for a, b in combinations(outputs, 2))


def test_each_component_is_another():
    """Within a slot no two components, and not `none`, give the same output."""
    for slot in ("anchors", "connector", "bridge", "sharing", "reducer"):
        cases = [case for case in CASES if case[0] == slot]
        outputs = {case[1]: shown(section_of(case), False) for case in cases}
        if slot in ("anchors", "bridge", "reducer"):
            outputs["none"] = shown(section_of(("fusion", "attend")) | {slot: "none"}, False)
        same = [p for p in combinations(outputs, 2) if not differ(outputs[p[0]], outputs[p[1]])]
        assert not same, slot
