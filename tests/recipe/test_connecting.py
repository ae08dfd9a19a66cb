"""What connectors that are not per token go with, and what they do not."""

from typing import Any

import pytest
from laws.settings import OWN_FINE, section_of, with_keys

from eramv_lab.data.collate import can_pack
from eramv_lab.recipe.model_spec import ModelSpec, parse_model

QFORMER = section_of(("connector", "qformer"))
NO_BAND = {"band": "none", "fine_connector": "same"}
SMALL = {"type": "perceiver", "queries": 3, "layers": 1, "heads": 2, "head_dim": 6}


def told(section: dict[str, Any]) -> dict[str, str]:
    problems: list[Any] = []
    assert parse_model(section, problems) is None
    return {problem.key.removeprefix("model."): problem.message for problem in problems}


def sound(section: dict[str, Any]) -> ModelSpec:
    problems: list[Any] = []
    spec = parse_model(section, problems)
    assert spec is not None, "\n".join(p.render() for p in problems)
    return spec


def test_fine_features_need_a_connector_of_their_own():
    assert "per token" in told(with_keys(QFORMER, fine_connector="same"))["fine_connector"]
    assert "write same" in told(with_keys(QFORMER, bridge="projector"))["fine_connector"]
    sound(with_keys(QFORMER, bridge="projector", fine_connector="same"))


def test_rows_of_its_own_have_no_place():
    found = told(
        with_keys(
            QFORMER,
            fine={"type": "all", "exclude_anchors": True},
            prompt={"type": "image_first", "positions": "grid"},
        )
    )
    assert "rows of its own" in found["prompt"] and "rows of its own" in found["fine"]
    acformer = with_keys(
        section_of(("connector", "acformer")),
        prompt={"type": "image_first", "positions": "grid"},
        **{"band.positions": "grid"},
    )
    sound(acformer)
    assert "rows of its own" in told(with_keys(acformer, fine_connector=SMALL))["band"]


def test_without_anchors_nothing_goes_through_the_connector():
    spec = sound(with_keys(QFORMER, anchors="none", fine_connector=SMALL))
    assert spec.connector is None and spec.dims().fine == 3 and spec.dims().fine_rows == 16
    assert spec.to_plain()["connector"] == "none"
    assert sound(spec.to_plain()) == spec
    assert "found none" in told(with_keys(QFORMER, connector="none", **NO_BAND))["connector"]
    assert "same" in told(with_keys(QFORMER, fine_connector="none"))["fine_connector"]


def test_a_selector_among_projected_patches_needs_a_map_of_each():
    section = with_keys(section_of(("anchors", "divprune")), connector=QFORMER["connector"])
    assert "per token" in told(section | OWN_FINE)["anchors"]


@pytest.mark.parametrize("question", [True, False])
def test_questions_share_an_image_unless_the_connector_reads_them(question: bool):
    section = with_keys(QFORMER, prompt="image_first", **{"connector.question": question})
    assert can_pack(sound(section)) is not question


def test_a_hash_knows_no_connector_that_is_the_same():
    spec = sound(section_of(("connector", "linear")))
    assert spec.to_plain()["fine_connector"] == "same"
    assert "fine_connector" not in spec.to_plain(known=True)
