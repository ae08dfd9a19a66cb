"""The rows of every decoder layer, what it does to them, and what ranks those that leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from eramv_lab.shapes import LanguageDims, Op, attention, linear
from eramv_lab.slots.reducers import Event, frozen_layers, visual_by_layer

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def visual_rows(spec: ModelSpec) -> tuple[int, ...]:
    """Visual rows of an image in every decoder layer: those that the reducers have left."""
    dims = spec.dims()
    return visual_by_layer(spec.events(), dims.language.layers, dims.visual)


def rows_by_layer(spec: ModelSpec, text_tokens: int) -> list[int]:
    """S of every decoder layer: `text_tokens` and the visual rows."""
    return [text_tokens + rows for rows in visual_rows(spec)]


def live_by_layer(spec: ModelSpec, text_tokens: int) -> list[int]:
    """Rows that every decoder layer updates: in a frozen one those that are not visual."""
    rows, frozen = rows_by_layer(spec, text_tokens), frozen_layers(spec.events())
    return [text_tokens if layer in frozen else rows[layer] for layer in range(len(rows))]


def enters(spec: ModelSpec, layer: int) -> bool:
    """Whether visual rows that waited enter before `layer`."""
    return any(event.layer == layer and event.kind == "inject" for event in spec.events())


def rankings(spec: ModelSpec, text_tokens: int, layer: int) -> list[Op]:
    """What ranks the rows that leave before `layer`: no more attention than is asked for."""
    dims, events = spec.dims(), spec.events()
    waits = any(event.kind == "inject" for event in events)
    seen = visual_by_layer(events, layer, dims.visual)[-1:]
    before = now = seen[0] if seen else 0 if waits else dims.visual
    live = 0 if layer - 1 in frozen_layers(events) else before
    ops: list[Op] = []
    if layer == 0 and any(e.rankers == "raters" and e.keep < dims.visual for e in events):
        ops.append(_scores(0, linear(dims.visual, dims.language.width, text_tokens)))
    scored = set[str]()
    for event in events:
        if event.layer != layer:
            continue
        if event.kind == "inject":
            now = dims.visual
        if event.kind != "drop" or event.keep >= now:
            continue
        if event.rank == "next":
            ops += _ranking(dims.language, event, layer, text_tokens, now, now)
        elif event.rank == "previous" and event.rankers not in scored:
            scored.add(event.rankers)  # one ranking for all that go by it
            ops += _ranking(dims.language, event, layer - 1, text_tokens, before, live)
        if event.made:  # distances of the rows that are merged
            merged = min(event.recycled, now - event.keep)
            ops.append(_scores(layer, linear(merged, dims.language.width, merged)))
        now = event.left(now)
    return ops


def _ranking(
    language: LanguageDims, event: Event, layer: int, text_tokens: int, visual: int, live: int
) -> list[Op]:
    """Scores of the rankers against all rows; for a layer to come, queries and keys for them."""
    rows = text_tokens + visual
    asking = {"mean": text_tokens + live, "raters": text_tokens}.get(event.rankers, 1)
    made: list[Op] = []
    if event.rank == "next":
        query, key, _ = projections(language, rows, layer, asking)
        made = [replace(query, part="reducer"), replace(key, part="reducer")]
    flops = attention(asking, rows, language.query_width) // 2
    return [*made, _scores(layer, flops)]


def _scores(layer: int, flops: int) -> Op:
    """A product of rows with rows, whose result chooses."""
    return Op(part="reducer", kind="attention", flops=flops, owner="", layer=layer)


def projections(
    language: LanguageDims, rows: int, layer: int, queries: int | None = None
) -> list[Op]:
    """Queries (of `queries` rows; None: of all), keys and values."""
    asked = rows if queries is None else queries
    return [*_matrices(language, asked, layer, "q"), *_matrices(language, rows, layer, "kv")]


def self_attention(language: LanguageDims, queries: int, keys: int, layer: int) -> Op:
    """Scores and mix."""
    return _op("attention", attention(queries, keys, language.query_width), layer)


def output(language: LanguageDims, rows: int, layer: int) -> Op:
    """W_o."""
    return _matrices(language, rows, layer, "o")[0]


def feed_forward(language: LanguageDims, rows: int, layer: int) -> list[Op]:
    """The three matrices, the last one last."""
    return _matrices(language, rows, layer, ("gate", "up", "down"))


def _op(kind: Literal["linear", "attention"], flops: int, layer: int | None, *weights: str) -> Op:
    at = {"part": "language", "owner": "language", "layer": layer}
    return Op(**at, kind=kind, flops=flops, weights=weights)


def _matrices(language: LanguageDims, rows: int, layer: int, names: Iterable[str]) -> list[Op]:
    sizes = language.projections()
    return [
        _op("linear", linear(rows, sizes[name].columns_in, sizes[name].columns_out), layer, name)
        for name in names
    ]
