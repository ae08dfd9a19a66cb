"""The price list: many recipes side by side, against the model that reads every patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from eramv_lab.cost.conventions import NAMED
from eramv_lab.cost.formula import Cost, price
from eramv_lab.cost.roofline import BATCHES, GPUS, decode_seconds, prefill_seconds
from eramv_lab.cost.show import price_arm
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.resolve import MAIN

if TYPE_CHECKING:
    from eramv_lab.recipe.arms import Arm
    from eramv_lab.recipe.resolve import Recipe

CONNECTOR = "mlp2x_gelu"
"""LLaVA's."""


@dataclass(frozen=True, kw_only=True)
class Priced:
    """One row of the list."""

    name: str
    """The recipe's, with its arm's where it has arms."""
    arm: Arm
    cost: Cost
    full: Cost
    """Of the full-token model on the same tower and language model."""
    seconds: dict[str, dict[str, list[float]]] = field(
        default_factory=dict[str, dict[str, list[float]]]
    )
    """By GPU: the bound of a prefill and of one token after it, at each batch of BATCHES."""
    counted: tuple[float, float] | None = None
    """Prefill under a convention, and the full-token model's."""

    @property
    def share(self) -> float:
        """Of the full-token model's prefill."""
        return self.cost.prefill / self.full.prefill

    @property
    def new(self) -> int:
        """Parameters beside the full-token model's; fewer where its connector is smaller."""
        return self.cost.parameters - self.full.parameters

    def to_json(self) -> dict[str, Any]:
        """Flat numbers in the units of their names."""
        flat = self.cost.to_json()
        flat["share_of_full"] = self.share
        flat["new_parameters"] = self.new
        for gpu, found in self.seconds.items():
            for what, seconds in found.items():
                for batch, one in zip(BATCHES, seconds, strict=True):
                    flat[f"{gpu}_{what}_ms_batch_{batch}"] = one * 1e3
        if self.counted is not None:
            flat["convention"], flat["convention_share"] = (
                self.counted[0],
                self.counted[0] / self.counted[1],
            )
        return flat


def full_tokens(spec: ModelSpec) -> ModelSpec:
    """LLaVA on the tower and the language model of `spec`: every patch in every layer.

    The tower merges none of its rows.
    """
    plain = spec.to_plain()
    vision = {key: value for key, value in plain["vision"].items() if key != "merge"}
    own = plain["connector"]
    same = isinstance(own, dict) and own["type"] == CONNECTOR
    section: dict[str, Any] = {
        "vision": vision,
        "language": plain["language"],
        "anchors": "all",
        "connector": own if same else CONNECTOR,
        "prompt": "image_first",
    }
    found = parse_model(section, [])
    assert found is not None, section
    return found


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """What recipes cost at one shape."""

    rows: dict[str, list[Priced]]
    """Of every arm, by recipe."""
    recipes: dict[str, Recipe]
    shape: str | None = None
    """None: every recipe at its own sizes."""
    gpus: tuple[str, ...] = ()
    convention: str | None = None

    def __iter__(self) -> Iterator[Priced]:
        """Every row, recipe by recipe."""
        return (row for rows in self.rows.values() for row in rows)

    def to_json(self) -> dict[str, Any]:
        """By recipe and, where it has some, arm; of a single recipe that alone."""
        found: dict[str, Any] = {}
        for name, rows in self.rows.items():
            flat = {row.arm.name: row.to_json() for row in rows}
            found[name] = {"arms": flat} if self.recipes[name].has_arms else flat[MAIN]
        return found[next(iter(found))] if len(found) == 1 else {"recipes": found}


def price_list(
    recipes: Sequence[Recipe],
    arms: Collection[str] = (),
    *,
    shape: str | None = None,
    text_tokens: int | None = None,
    gpus: Sequence[str] = (),
    convention: str | None = None,
) -> PriceList:
    """The price of these arms (all, where none is named) of recipes that stand at `shape`.

    For `text_tokens`, or the input that each recipe names; times on `gpus`, and the prefill as
    `convention` counts it.
    """
    stems = Counter(recipe.name for recipe in recipes)
    by_name = {one.name if stems[one.name] == 1 else one.path: one for one in recipes}
    rows: dict[str, list[Priced]] = {}
    for name, recipe in by_name.items():
        rows[name] = []
        for arm in (recipe.arm(one) for one in arms or recipe.arms):
            if text_tokens is not None:
                arm = replace(arm, cost=replace(arm.cost, text_tokens=text_tokens))
            tokens, whole = arm.cost.text_tokens, full_tokens(arm.spec)
            row = Priced(
                name=f"{name}/{arm.name}" if recipe.has_arms else name,
                arm=arm,
                cost=price_arm(arm),
                full=price(whole, text_tokens=tokens),
                seconds={gpu: _seconds(arm.spec, gpu, tokens) for gpu in gpus},
                counted=_counted(convention, arm.spec, whole, text_tokens, tokens),
            )
            rows[name].append(row)
    return PriceList(
        rows=rows, recipes=by_name, shape=shape, gpus=tuple(gpus), convention=convention
    )


def _seconds(spec: ModelSpec, gpu: str, tokens: int) -> dict[str, list[float]]:
    ways = {"prefill": prefill_seconds, "decode": decode_seconds}
    return {
        what: [bound(spec, GPUS[gpu], batch, text_tokens=tokens) for batch in BATCHES]
        for what, bound in ways.items()
    }


def _counted(
    name: str | None, spec: ModelSpec, whole: ModelSpec, asked: int | None, tokens: int
) -> tuple[float, float] | None:
    if name is None:
        return None
    convention = NAMED[name]
    if convention is None:
        both = [float(price(one, text_tokens=tokens).prefill) for one in (spec, whole)]
    else:
        both = [convention.prefill(one, asked) for one in (spec, whole)]
    return both[0], both[1]
