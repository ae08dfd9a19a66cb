"""The typed `model:` section: a config per slot, the band as layers, the sizes that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.bands import WHERE, band_layers, is_gone, split_band
from eramv_lab.recipe.connecting import check_connectors, connector_rows, reads_question
from eramv_lab.recipe.parse import choice, parse_component, to_plain
from eramv_lab.recipe.scale import Sizes, bare, scaled
from eramv_lab.registry import SLOTS
from eramv_lab.shapes import Dims

KEYS = (
    "vision",
    "anchors",
    "connector",
    "fine",
    "fine_connector",
    "band",
    "bridge",
    "sharing",
    "reducer",
    "language",
    "prompt",
)
NEEDED = ("vision", "language", "prompt")
SAME = "same"
"""`fine_connector: same`: the fine features go through the connector of the anchors."""
DEFAULTS: dict[str, str | None] = {
    "vision": None,
    "anchors": None,
    "connector": None,
    "fine": "all",
    "bridge": None,
    "sharing": "shared",
    "language": None,
    "prompt": "question_first",
}
"""What fills a slot that a recipe does not name."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What fills each slot; None (or an empty tuple) where a recipe says `none`."""

    vision: Any
    connector: Any
    language: Any
    prompt: Any
    anchors: Any = None
    band: tuple[int, ...] = ()
    fine: Any = None
    fine_connector: Any = None
    """None: the fine features go through the connector, or the bridge takes them as they are."""
    fusion: Any = None
    bridge: Any = None
    sharing: Any = None
    reducer: tuple[Any, ...] = ()

    def dims(self) -> Dims:
        """The sizes that the slots tell one another."""
        return self._dims

    @cached_property
    def _dims(self) -> Dims:
        vision, language = self.vision.dims(), self.language.dims()
        anchors = self.anchors.count_of(vision) if self.anchors else 0
        patches = anchors - int(self.anchors.takes_cls) if self.anchors else 0
        rows = fine = self.fine.count_of(vision, patches) if self.fine else 0
        if self.fine_connector is not None:
            fine = self.fine_connector.count_of(vision, rows)
        visual = anchors
        if self.connector is not None and anchors:
            visual = self.connector.count_of(vision, anchors)
        return Dims(
            vision=vision,
            language=language,
            anchors=anchors,
            visual=visual,
            fine=fine,
            fine_rows=rows,
            band=self.band,
        )

    def connector_rows(self) -> int:
        """Rows per image that go through the connector at prefill."""
        return connector_rows(self)

    @property
    def reads_question(self) -> bool:
        """Whether a connector reads what is asked."""
        return reads_question(self)

    @property
    def readers(self) -> tuple[int, ...]:
        """Layers of the band, where they attend to the fine features."""
        return self.band if self.fusion is not None and self.fusion.reads else ()

    def bridged(self, layer: int) -> bool:
        """Whether a reader applies the bridge: what is made ahead has no use behind the last."""
        return self.bridge is not None and not (self.bridge.ahead and layer == self.readers[-1])

    def events(self) -> tuple[Any, ...]:
        """What the reducers do, in order of layer."""
        return self._events

    @cached_property
    def _events(self) -> tuple[Any, ...]:  # a price asks in every layer, and some search for them
        dims = self.dims()
        events = [e for r in self.reducer for e in r.events(dims.language.layers, dims.visual)]
        return tuple(sorted(events, key=lambda e: (e.layer, e.kind != "inject")))

    def to_plain(self, *, known: bool = False) -> dict[str, Any]:
        """The section as a recipe writes it, every key given.

        `known`: what a hash may know of it, without what came later and was left alone.
        """
        plain: dict[str, Any] = {}
        for key in KEYS:
            if key == "band":
                fusion = to_plain(self.fusion, SLOTS["fusion"], known=known)
                plain[key] = {"layers": list(self.band), **fusion} if self.band else "none"
            elif key == "reducer":
                plain[key] = [to_plain(r, SLOTS[key], known=known) for r in self.reducer] or "none"
            elif key == "fine_connector":
                if self.fine_connector is not None:
                    plain[key] = to_plain(self.fine_connector, SLOTS["connector"], known=known)
                elif not known:
                    plain[key] = SAME
            else:
                plain[key] = to_plain(getattr(self, key), SLOTS[key], known=known)
        return plain


def parse_model(
    section: Mapping[str, Any], problems: list[Problem], key: str = "model"
) -> ModelSpec | None:
    """The ModelSpec of a plain section; None with `problems` extended where it is not sound."""
    before = len(problems)
    problems += [
        choice(f"unknown key {name!r}", name, KEYS, f"{key}.{name}")
        for name in section
        if name not in KEYS
    ]
    section = _as_it_is(section, key, problems)
    parts: dict[str, Any] = {
        slot: parse_component(
            SLOTS[slot], section.get(slot, default), f"{key}.{slot}", problems, default
        )
        for slot, default in DEFAULTS.items()
    }
    fine = section.get("fine_connector", SAME)
    if _is_none(fine):
        message = "found none; `same` is the anchors' connector"
        problems.append(Problem(message=message, key=f"{key}.fine_connector"))
    elif fine not in (SAME, {"type": SAME}):
        parts["fine_connector"] = parse_component(
            SLOTS["connector"], fine, f"{key}.fine_connector", problems
        )
    for slot in ("vision", "language"):
        if hasattr(parts[slot], "hf"):
            try:
                parts[slot].hf()  # sizes come from a folder or the hub
            except UserError as error:
                problems += error.problems
                parts[slot] = None
    needed = (*NEEDED, *(() if parts.get("fine_connector") else ("connector",)))
    problems += [
        Problem(message=f"a model needs {slot}, found none", key=f"{key}.{slot}")
        for slot in needed
        if parts[slot] is None and _is_none(section.get(slot))
    ]
    parts["reducer"] = _reducers(section.get("reducer"), f"{key}.reducer", problems)
    band = section.get("band", "none")
    where, how = split_band(band)
    if isinstance(band, Mapping) and _is_none(band):
        parse_component(SLOTS["fusion"], band, f"{key}.band", problems)
    elif not _is_none(band):
        fusion = {"type": "attend", **(how or {})}
        found: list[Problem] = []
        parts["fusion"] = parse_component(SLOTS["fusion"], fusion, f"{key}.band", found)
        problems += map(_or_where, found)
    if parts["language"] is not None:
        depth = parts["language"].dims().layers
        parts["band"] = band_layers(where, depth, f"{key}.band", problems)
    # a band's parts are read even where there is none: a mistake in them is never hidden
    if is_gone(where):
        parts |= dict.fromkeys(("fine", "fine_connector", "bridge", "sharing", "fusion"))
    else:
        problems += [
            Problem(message=f"a band needs {slot}, found none", key=f"{key}.{slot}")
            for slot in ("fine", "sharing")
            if parts[slot] is None and _is_none(section.get(slot, DEFAULTS[slot]))
        ]
    if len(problems) > before:
        return None
    if parts["anchors"] is None and parts.get("fine_connector") is not None:
        parts["connector"] = None  # nothing goes through it
    spec = ModelSpec(**parts)
    problems += [
        Problem(message=message, key=f"{key}.{slot}") for slot, message in cross_check(spec)
    ]
    return spec if len(problems) == before else None


def _as_it_is(section: Mapping[str, Any], key: str, problems: list[Problem]) -> Mapping[str, Any]:
    """The section with every scaled number as this model has it."""
    if bare(section) == section:
        return section
    found: dict[str, Any] = {}
    for slot in ("vision", "language"):
        try:
            part = parse_component(SLOTS[slot], bare(section.get(slot)), slot, [])
            found[slot] = part and part.dims()
        except UserError:  # told where the part itself is read
            found[slot] = None
    vision, language = found["vision"], found["language"]
    sizes = Sizes(
        at=language and language.layers,
        rows=vision and vision.patches,
        level=vision and vision.layers,
    )
    return scaled(section, sizes, key, problems)


def _or_where(problem: Problem) -> Problem:
    """A problem of a band's keys; an unknown one may be meant to say where."""
    name = (problem.key or "").rpartition(".")[2]
    if problem.message != f"unknown key {name!r}":
        return problem
    return choice(problem.message, name, (*WHERE, *problem.allowed), problem.key)


def _is_none(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.get("type")
        return value == "none"
    return value is None or value == "none"


def _reducers(value: Any, key: str, problems: list[Problem]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        found = [parse_component(SLOTS["reducer"], value, key, problems)]
    else:
        found = [
            parse_component(SLOTS["reducer"], one, f"{key}.{i}", problems)
            for i, one in enumerate(value)
        ]
    return tuple(reducer for reducer in found if reducer is not None)


def cross_check(spec: ModelSpec) -> list[tuple[str, str]]:
    """Impossible combinations: (slot, what is wrong) of every component that objects."""
    found: list[tuple[str, str]] = []
    for slot in KEYS:
        configs = spec.reducer if slot == "reducer" else (getattr(spec, slot),)
        if slot == "band":
            configs = (spec.fusion,)
        for config in configs:
            if config is not None and hasattr(config, "check"):
                found += [(slot, message) for message in config.check(spec)]
    found += check_connectors(spec)
    if spec.anchors is None and not spec.band:
        found.append(("anchors", "none and band none: the model would not see the image"))
    return found
