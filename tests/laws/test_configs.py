"""Law 1: a config survives YAML, an unknown key raises, the defaults are sound."""

import dataclasses

import pytest
import yaml

from eramv_lab.errors import Problem
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.parse import parse_component, to_plain
from eramv_lab.registry import SLOTS, field_docs
from laws.settings import CASES, Case, component, missing_options, section_of, setting, with_keys

each = pytest.mark.parametrize("case", CASES, ids=".".join)
ONE_WITHOUT_DEFAULTS = {
    "drop": ("layer", "keep"),
    "vtw": ("layer",),
    "late": ("layer",),
    "hf": ("config",),
}
FITTED = {"resampler": ("head_dim",), "tokenpacker": ("levels", "head_dim")}
"""Keys whose defaults are a large model's."""


def parsed(section: object) -> ModelSpec:
    problems: list[Problem] = []
    spec = parse_model(section, problems)  # type: ignore[arg-type]
    assert spec is not None, "\n".join(p.render() for p in problems)
    return spec


@each
def test_every_option_is_turned_somewhere(case: Case):
    assert missing_options(case) == []


@each
def test_every_option_and_component_is_documented(case: Case):
    config = component(case).config
    assert component(case).summary
    assert {f.name for f in dataclasses.fields(config)} <= set(field_docs(config))


@each
def test_to_yaml_and_back_is_the_identity(case: Case):
    registry, problems = SLOTS[case[0]], list[Problem]()
    config = component(case).config
    settings = [config(**{k: v for k, v in setting(case).config.items() if k != "type"})]
    if case[1] not in ONE_WITHOUT_DEFAULTS:
        settings.append(config())
    for one in settings:
        text = yaml.safe_dump(to_plain(one, registry))
        assert parse_component(registry, yaml.safe_load(text), "k", problems) == one
    assert problems == []


@each
def test_the_whole_section_comes_back_from_yaml(case: Case):
    spec = parsed(section_of(case))
    assert parsed(yaml.safe_load(yaml.safe_dump(spec.to_plain()))) == spec


@each
def test_an_unknown_key_is_reported_with_what_is_allowed(case: Case):
    problems: list[Problem] = []
    name = next((f.name for f in dataclasses.fields(component(case).config)), "anything")
    assert parse_model(section_of(case, **{f"{name}x": 1}), problems) is None
    (problem,) = problems
    assert f"{name}x" in problem.message and problem.nearest in (name, None)


@each
def test_the_defaults_check_clean(case: Case):
    slot, name = case
    needed = {k: setting(case).config[k] for k in ONE_WITHOUT_DEFAULTS.get(name, ())}
    section = {
        "vision": "tiny", "anchors": "cls_topk", "connector": "mlp2x_gelu", "language": "tiny",
        "prompt": "question_first", "band": {"start": 2, "length": 2}, "bridge": "mlp",
    }  # fmt: skip
    key = "band" if slot == "fusion" else slot
    value = {"start": 2, "length": 2} if slot == "fusion" else {}
    needed |= {k: setting(case).config[k] for k in FITTED.get(name, ())}
    section = with_keys(section, **{key: {**value, "type": name, **needed}}, **setting(case).model)
    if case == ("fusion", "add"):  # windows of two by two in this grid
        section = with_keys(section, **{"anchors.count": 36})
    if case == ("vision", "hf"):
        section = with_keys(section, anchors={"type": "cls_topk", "count": 4})
    parsed(section)
