"""The operations of a prefill, a training step and a decode step, composed from the slots.

Every operation carries what its backward pass costs, which depends on what is trained: a linear
map costs one more forward where its weight is trained and one more where its input needs a
gradient; scores and mix of attention half a forward for each of dP, dV, dQ, dK that is asked for.
So the lowest trained module decides, not a factor of three. Norms, activations, biases, rotary
positions and look-ups of embeddings are free.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import LanguageDims, Op, attention, linear

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and the FLOPs of its backward pass (0 where no gradient is asked for)."""

    op: Op
    backward: int = 0


def rows_by_layer(spec: ModelSpec, text_tokens: int) -> list[int]:
    """S of every decoder layer: `text_tokens` and the visual rows that the reducers have left."""
    dims, events = spec.dims(), spec.events()
    rows: list[int] = []
    for layer in range(dims.language.layers):
        kept = [event.keep for event in events if event.layer <= layer]
        rows.append(text_tokens + min([dims.visual, *kept]))
    return rows


def prefill(
    spec: ModelSpec, text_tokens: int, head_rows: int = 1, trained: Collection[str] = ()
) -> list[Step]:
    """The operations of one sample in order of data flow, logits of `head_rows` positions last.

    `trained` names the roles (owners) that learn.
    """
    return _Walk(spec, text_tokens, frozenset(trained)).run(head_rows)


def decode(spec: ModelSpec, text_tokens: int) -> list[Op]:
    """The operations of one token after the prefill, every key and value cached."""
    dims = spec.dims()
    language = dims.language
    ops: list[Op] = []
    for layer, rows in enumerate(rows_by_layer(spec, text_tokens)):
        ops += [*_projections(language, 1, layer), _self_attention(language, 1, rows + 1, layer)]
        if layer in spec.band and spec.fusion is not None:
            ops += spec.fusion.decode_ops(language, dims.fine, layer, spec.sharing)
        ops += [_output(language, 1, layer), *_feed_forward(language, 1, layer)]
    return [*ops, _head(language, 1)]


class _Walk:
    """One pass over the model; the flags say whether a gradient is asked for at that place."""

    def __init__(self, spec: ModelSpec, text_tokens: int, trained: frozenset[str]) -> None:
        self.spec, self.dims, self.trained = spec, spec.dims(), trained
        self.rows = rows_by_layer(spec, text_tokens)
        self.steps: list[Step] = []
        # one softmax over both asks for a gradient of all keys where any of them does
        self.joint = spec.fusion is not None and spec.fusion.softmax == "joint"
        self.vision = self.connector = self.memory = self.sequence = False

    def run(self, head_rows: int) -> list[Step]:
        self.tower()
        self.connect()
        spec, language = self.spec, self.dims.language
        # embeddings are trained with the language model, anchors bring the connector's gradient
        self.sequence = "language" in self.trained or (self.connector and self.dims.visual > 0)
        once = spec.bridge is not None and spec.bridge.share == "band" and not spec.bridge.carry
        if once and spec.band:
            self.memory = self.bridge(None, self.memory)
        for layer, rows in enumerate(self.rows):
            self.rank(layer)
            if layer in spec.band:
                self.band_layer(layer, rows, once)
            else:
                for op in _projections(language, rows, layer):
                    self.linear(op, self.sequence)
                self.attention(_self_attention(language, rows, rows, layer), self.sequence)
                self.linear(_output(language, rows, layer), self.sequence)
            for op in _feed_forward(language, rows, layer):
                self.linear(op, self.sequence)
        self.linear(_head(language, head_rows), self.sequence)
        return self.steps

    def linear(self, op: Op, needed: bool) -> bool:
        """Add a map whose input asks for a gradient if `needed`; whether its output does."""
        trained = op.owner in self.trained
        self.steps.append(Step(op, op.flops * (int(trained) + int(needed))))
        return trained or needed

    def attention(self, op: Op, queries: bool, keys: bool | None = None) -> bool:
        """Add scores and mix; `keys` (and values) ask for a gradient as `queries` by default."""
        keys = queries if keys is None else keys
        halves = int(queries or keys) + int(queries) + 2 * int(keys)  # dP; dQ; dK and dV
        self.steps.append(Step(op, op.flops * halves // 2))
        return queries or keys

    def tower(self) -> None:
        """The tower; where CLS looks is asked for beside it, and chooses without a gradient."""
        ops = self.spec.vision.ops(False)
        for op in ops:
            add = self.attention if op.kind == "attention" else self.linear
            self.vision = add(op, self.vision)
        if _needs_cls_attention(self.spec):
            self.steps += [Step(op) for op in self.spec.vision.ops(True)[len(ops) :]]

    def connect(self) -> None:
        """The connector's rows; then what anchors and fine features start from."""
        self.connector = self.vision
        rows = self.spec.connector_rows()
        for op in self.spec.connector.ops(self.dims, rows) if rows else ():
            # an operation that reads the tower (flow vision) is asked for what the tower asks
            needed = self.vision if op.flow == "vision" else self.connector
            self.connector = self.linear(op, needed) or self.connector
        straight = self.spec.bridge is not None and self.spec.bridge.input == "vision"
        self.memory = self.vision if straight else self.connector

    def bridge(self, layer: int | None, needed: bool) -> bool:
        """One application of the bridge; whether its result asks for a gradient."""
        bridge = self.spec.bridge
        if bridge is None:
            return needed
        for op in bridge.ops(self.dims, self.dims.fine, layer):
            before = self.vision if op.flow == "vision" else needed
            # the layer's own feed-forward stands behind a norm that is trained with it
            behind_norm = op.owner == "language" and "language" in self.trained
            needed = self.linear(op, before or behind_norm) or needed
        return needed

    def rank(self, layer: int) -> None:
        """Scores of the prompt's last row against the rows of the layer before, for a reducer."""
        events = self.spec.events()
        if any(event.layer == layer and event.rank == "previous" for event in events):
            flops = attention(1, self.rows[layer - 1], self.dims.language.query_width) // 2
            op = Op(part="reducer", kind="attention", flops=flops, owner="", layer=layer - 1)
            self.steps.append(Step(op))

    def band_layer(self, layer: int, rows: int, bridged: bool) -> None:
        """Self-attention and the band's reading, in the order that the fusion has them."""
        language, fusion = self.dims.language, self.spec.fusion
        keys = self.keys_values(layer, bridged)
        if fusion.at == "before":
            self.sequence |= self.read(layer, rows, keys)
        for op in _projections(language, rows, layer):
            self.linear(op, self.sequence)
        own = _self_attention(language, rows, rows, layer)
        heads = self.attention(own, self.sequence, self.sequence or (keys and self.joint))
        read = self.read(layer, rows, keys) if fusion.at == "parallel" else False
        one_output = not self.spec.sharing.own_query  # W_o once, on the sum of both
        self.linear(_output(language, rows, layer), heads or (read and one_output))
        self.sequence |= read
        if fusion.at == "after":
            self.sequence |= self.read(layer, rows, keys)

    def keys_values(self, layer: int, bridged: bool) -> bool:
        """Bridge, then keys and values of the fine features; whether these ask for a gradient."""
        spec = self.spec
        memory = self.memory if bridged else self.bridge(layer, self.memory)
        if spec.bridge is not None and spec.bridge.carry:
            self.memory = memory
        norm = "band" if getattr(spec.sharing, "own_norm", False) else "language"
        asked = memory or norm in self.trained
        for op in spec.fusion.memory_ops(self.dims.language, self.dims.fine, layer, spec.sharing):
            asked = self.linear(op, asked)
        return asked

    def read(self, layer: int, rows: int, keys: bool) -> bool:
        """The band's part for the rows of the sequence; whether its result asks for a gradient.

        Maps of flow `sequence` make queries and gates, those of flow `memory` take what was read.
        """
        spec, language = self.spec, self.dims.language
        ops = spec.fusion.row_ops(language, rows, self.dims.fine, layer, spec.sharing)
        asked = self.sequence
        for op in ops:
            if op.kind == "linear" and op.flow != "memory":
                asked = self.linear(op, asked)
        for op in ops:
            if op.kind == "attention":
                asked = self.attention(op, asked, keys or (self.sequence and self.joint))
        gates = spec.fusion.parameters(language, spec.sharing) - spec.sharing.parameters(language)
        asked |= gates > 0 and "band" in self.trained
        for op in ops:
            if op.kind == "linear" and op.flow == "memory":
                asked = self.linear(op, asked)
        return asked


def _needs_cls_attention(spec: ModelSpec) -> bool:
    if spec.anchors is None:
        return False
    from eramv_lab.slots.contracts import Need  # with torch, as the anchors have it anyway

    return Need.CLS_ATTENTION in getattr(ANCHORS.of(spec.anchors).factory, "need", Need.NONE)


def _op(kind: Literal["linear", "attention"], flops: int, layer: int | None) -> Op:
    return Op(part="language", kind=kind, flops=flops, owner="language", layer=layer)


def _projections(language: LanguageDims, rows: int, layer: int) -> list[Op]:
    width = language.width
    columns = (language.query_width, language.kv_width, language.kv_width)
    return [_op("linear", linear(rows, width, out), layer) for out in columns]


def _self_attention(language: LanguageDims, queries: int, keys: int, layer: int) -> Op:
    return _op("attention", attention(queries, keys, language.query_width), layer)


def _output(language: LanguageDims, rows: int, layer: int) -> Op:
    return _op("linear", linear(rows, language.query_width, language.width), layer)


def _feed_forward(language: LanguageDims, rows: int, layer: int) -> list[Op]:
    return [_op("linear", linear(rows, language.width, language.ffn), layer)] * 3


def _head(language: LanguageDims, rows: int) -> Op:
    flops = linear(rows, language.width, language.vocab)
    return Op(part="head", kind="linear", flops=flops, owner="language")
