"""The systems that choose or merge patches have their papers' rows at LLaVA-1.5's shape."""

from typing import Any

import pytest
import yaml

from eramv_lab.cost.formula import price

from .shapes import SCALE, scale

SYSTEMS = SCALE.parent / "systems"
ROWS = {
    "fastervlm": 58,
    "divprune": 56,  # 576 x .098
    "prumerge": 32 + 1,
    "prumerge_plus": 144 + 1,
    "visionzip": 54 + 10,
    "tome": 192,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_at_the_papers_shape(name: str):
    recipe = yaml.safe_load((SYSTEMS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert recipe["train"] == {"steps": 0} and recipe["system"]["trains"] == "nothing"
    section: dict[str, Any] = recipe["model"]
    whole = scale("llava15_7b")
    if "vision" in section:
        section["vision"] |= whole.to_plain()["vision"] | section["vision"]
    spec, text = scale("llava15_7b", **section), 64
    assert spec.dims().visual == ROWS[name]
    cost, full = price(spec, text_tokens=text), price(whole, text_tokens=text)
    assert cost.prefill < full.prefill
    if name == "tome":  # the only one whose tower grows cheaper
        assert cost.column("vision") < 0.75 * full.column("vision")
    else:
        assert full.column("vision") <= cost.column("vision") < 1.02 * full.column("vision")


def test_a_count_that_adapts_is_priced_as_the_most_that_can_be():
    spec = scale("llava15_7b", anchors={"type": "prumerge"})
    assert price(spec, text_tokens=64).visual_tokens == 576 // 4 + 1
    bounded = scale("llava15_7b", anchors={"type": "prumerge", "plus": True, "most": 200})
    assert price(bounded, text_tokens=64).visual_tokens == 201
