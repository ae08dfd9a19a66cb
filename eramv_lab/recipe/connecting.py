"""Which rows go through which connector, and what does not go together because of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from eramv_lab.registry import CONNECTOR

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

CONNECTORS = ("connector", "fine_connector")
TAUGHT = "mlp2x_gelu"
"""The connector that a base has."""
PER_TOKEN = "one that is per token, such as mlp2x_gelu or linear"


def in_vision(spec: ModelSpec) -> bool:
    """Whether the bridge takes the fine features as the tower gave them."""
    return spec.bridge is not None and spec.bridge.input == "vision"


def shares(spec: ModelSpec) -> bool:
    """Whether the fine features go through the connector of the anchors."""
    return bool(spec.band) and spec.fine_connector is None and not in_vision(spec)


def projects(spec: ModelSpec) -> bool:
    """Whether the selector chooses among patches in language width."""
    return spec.anchors is not None and spec.anchors.projected


def with_cls(spec: ModelSpec) -> bool:
    """Whether CLS is among the tower's rows that are connected once and gathered after it."""
    picked = spec.anchors is not None and spec.anchors.picks and spec.anchors.takes_cls
    return picked or (shares(spec) and spec.fine is not None and spec.fine.cls)


def connector_rows(spec: ModelSpec) -> int:
    """Rows per image that go through the connector at prefill; what it makes of them is its own.

    Where the fine features share it, every one of them (or, where the selection is made of them,
    every tower row once: anchors that are picked are gathered after it); the same where the
    selector chooses among projected patches; else the anchors alone.
    """
    dims = spec.dims()
    if spec.connector is None:
        return 0
    if not spec.connector.per_token or not (shares(spec) or projects(spec)):
        return dims.anchors
    if spec.anchors is not None and spec.anchors.picks:
        return dims.vision.patches + int(with_cls(spec))
    return (dims.fine_rows if shares(spec) else dims.vision.patches) + dims.anchors


def levels(spec: ModelSpec) -> tuple[int, ...]:
    """Numbers of the hidden states that a connector reads beside the features."""
    both = (spec.connector, spec.fine_connector)
    return next((wanted for one in both if (wanted := getattr(one, "levels", ()))), ())


def reads_question(spec: ModelSpec) -> bool:
    """Whether a connector reads what is asked: an image is then another one for each question."""
    both = (spec.connector, spec.fine_connector)
    return any(one is not None and one.reads_question for one in both)


def begin_anew(spec: ModelSpec) -> dict[str, str]:
    """The connectors that no base has taught, by their place: they keep their own start."""
    found = {name: getattr(spec, name) for name in CONNECTORS}
    kinds = {name: CONNECTOR.of(c).name for name, c in found.items() if c is not None}
    return {name: kind for name, kind in kinds.items() if kind != TAUGHT}


def told_anew(spec: ModelSpec, start: Mapping[str, str] | None) -> list[str]:
    """Lines that say which connectors begin anew, where the start is a base."""
    names = begin_anew(spec) if start and "base" in start else {}
    return [f"{name} {kind} begins anew: the base has {TAUGHT}" for name, kind in names.items()]


def check_connectors(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """(slot, what is wrong) of connectors that do not fit what stands around them."""
    connector, fine = spec.connector, spec.fine_connector
    if connector is None:
        if spec.anchors is not None or shares(spec):
            what = "the anchors" if spec.anchors is not None else "the fine features"
            yield "connector", f"none, and {what} need one to come to language width"
    elif not connector.per_token:
        if shares(spec):
            yield (
                "fine_connector",
                "same, and the connector is not per token, so that the fine features cannot go "
                f"through it; write {PER_TOKEN}, or perceiver",
            )
        if projects(spec):
            message = "the selector chooses among projected patches; the connector has to be "
            yield "anchors", message + PER_TOKEN
        if connector.own_rows:
            rows = "and the connector puts rows of its own into the sequence"
            if spec.prompt.positions == "grid":
                yield "prompt", f"positions grid needs visual rows that are patches, {rows}"
            if spec.fine is not None and spec.fine.exclude_anchors:
                yield "fine", f"exclude_anchors leaves out patches of the sequence, {rows}"
    if fine is None:
        return
    if in_vision(spec):
        message = "the bridge takes the fine features in vision width; write same"
        yield "fine_connector", message
    if fine.own_rows and getattr(spec.fusion, "positions", "none") == "grid":
        message = "positions grid needs fine features that are patches, and fine_connector makes "
        yield "band", message + "rows of its own; write none or one"
    ours, theirs = getattr(fine, "levels", ()), getattr(connector, "levels", ())
    if ours and theirs and ours != theirs:
        yield "fine_connector", f"levels {ours} are not the connector's {theirs}"
