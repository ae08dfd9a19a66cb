"""The slots of a converted model: what is asked for, laid over what the checkpoint brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.bands import is_gone, split_band
from eramv_lab.recipe.load import interpolated, read_recipe
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.parse import parse_component
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.registry import SLOTS

OPEN = (
    "the band adds to the output from the first step (gate {gate}), so the model does not begin as "
    "the checkpoint's anchors-only model; band.gate tanh or channel, closed at first, would"
)
CLOSED = "band.gate is not given: tanh, closed at first, so that nothing changes before training"
LEFT_OPEN = (("band", "gate"), ("prompt", "template"), ("vision", "feature_layer"))
"""Keys that the checkpoint decides where a recipe does not write them."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The whole `model:` section of a converted model."""

    spec: ModelSpec
    notes: tuple[str, ...] = ()
    """What was chosen where nothing was said."""
    warning: str = ""
    """Why the model does not begin as the checkpoint; empty where it does."""


def arm_section(
    path: Path | str, arm: str | None = None, overrides: Iterable[str] = ()
) -> dict[str, Any]:
    """The `model:` section of a recipe's arm, resolved; keys that the checkpoint decides
    (`band.gate`, `prompt.template`, `vision.feature_layer`) only where the recipe writes them.

    Raises UserError for a recipe that is not sound, and one of several arms without `arm`.
    """
    overrides = list(overrides)
    recipe = load_recipe(path, overrides)
    if arm is None and len(recipe.arms) > 1:
        message = f"{path} has {len(recipe.arms)} arms: say which is meant"
        raise UserError(Problem(message=message, key="--arm", allowed=tuple(recipe.arms)))
    arm = arm or next(iter(recipe.arms))
    section = recipe.arm(arm).spec.to_plain()
    document = read_recipe(path, overrides)
    node = document.arm(arm) if document.arms else document.shared
    written = interpolated(node, [])["model"]
    for slot, key in LEFT_OPEN:
        told = written.get(slot)
        if isinstance(section[slot], dict) and not (isinstance(told, Mapping) and key in told):
            section[slot].pop(key, None)
    return section


def lay_over(own: Mapping[str, Any], asked: Mapping[str, Any], template: str) -> Section:
    """The section of the checkpoint's `own` slots with those that are `asked` for.

    `template` is the prompt's where none is asked for. Raises UserError with everything that is
    wrong, the shapes that differ from the checkpoint's among it.
    """
    problems: list[Problem] = []
    whole: dict[str, Any] = {"band": "none", "prompt": "image_first", **own, **asked}
    for slot in ("vision", "language"):
        if slot in asked:
            whole[slot] = own[slot]
            problems += _differences(slot, own[slot], asked[slot])
    whole["prompt"] = _with(whole["prompt"], template=template)
    notes: list[str] = []
    if _may_be_closed(whole["band"]):
        whole["band"] = {**_mapping(whole["band"]), "gate": "tanh"}
        notes.append(CLOSED)
    spec = parse_model(whole, problems, key="model")
    if spec is not None:
        given = spec.connector  # none where nothing goes through it
        connector = "none" if given is None else SLOTS["connector"].of(given).name
        if connector != own["connector"]:
            message = f"is {connector!r}, the checkpoint's is {own['connector']!r}"
            problems.append(Problem(message=message, key="model.connector"))
    if spec is None or problems:
        raise UserError(problems)
    warning = ""
    if spec.band and spec.fusion.gate not in ("tanh", "channel"):
        warning = OPEN.format(gate=spec.fusion.gate)
    return Section(spec=spec, notes=tuple(notes), warning=warning)


def _may_be_closed(band: Any) -> bool:
    """Whether there is a band that says nothing of its gate, and can have one that closes."""
    where, how = split_band(band)
    how = how or {}
    free = how.get("type", "attend") == "attend"
    free &= how.get("softmax") != "joint" and how.get("combine") != "mix"
    return not is_gone(where) and "gate" not in how and free


def _mapping(band: Any) -> dict[str, Any]:
    """A band as a mapping, also where it is a word (`middle`) or a list of layers."""
    if isinstance(band, Mapping):
        return dict(band)
    return {"place": band} if isinstance(band, str) else {"layers": band}


def _with(value: Any, **defaults: Any) -> Any:
    """A component's value with keys that it does not give."""
    if isinstance(value, str) and value != "none":
        value = {"type": value}
    return {**defaults, **value} if isinstance(value, Mapping) else value


def _differences(slot: str, own: Mapping[str, Any], asked: Any) -> list[Problem]:
    """Sizes of vision or language that differ from the checkpoint's."""
    key, problems = f"model.{slot}", []
    if isinstance(asked, Mapping) and asked.get("type") == "hf" and slot == "vision":
        asked = {"feature_layer": own["feature_layer"], **asked}
    wanted = parse_component(SLOTS[slot], asked, key, problems)
    mine = parse_component(SLOTS[slot], own, key, problems)
    if wanted is None or mine is None or problems:
        return problems
    if not hasattr(wanted, "hf"):
        kind, family = SLOTS[slot].of(wanted).name, mine.hf()["model_type"]
        message = f"is {kind!r}, but the checkpoint brings its own, a {family}; leave the slot out"
        return [Problem(message=message, key=key)]
    sizes, theirs = asdict(wanted.dims()), asdict(mine.dims())
    sizes["model_type"], theirs["model_type"] = wanted.hf()["model_type"], mine.hf()["model_type"]
    return [
        Problem(message=f"{name} is {sizes[name]!r}, the checkpoint's is {theirs[name]!r}", key=key)
        for name in sizes
        if sizes[name] != theirs[name]
    ]
