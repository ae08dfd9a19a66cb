"""The operations of a prefill, a training step and a decode step, composed from the slots.

Every operation carries what its backward pass costs, which depends on what is trained: a linear
map costs one more forward where its weight is trained and one more where its input needs a
gradient; a low-rank difference beside it is two small maps that are trained; scores and mix of
attention half a forward for each of dP, dV, dQ, dK that is asked for.
So the lowest trained module decides, not a factor of three. Norms, activations, biases, rotary
positions and look-ups of embeddings are free.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eramv_lab.cost.flow import (
    enters,
    feed_forward,
    live_by_layer,
    output,
    projections,
    rankings,
    rows_by_layer,
    self_attention,
)
from eramv_lab.cost.through import through
from eramv_lab.shapes import LanguageDims, Op, linear

if TYPE_CHECKING:
    from eramv_lab.recipe.lora import Difference, Place
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and the FLOPs of its backward pass (0 where no gradient is asked for)."""

    op: Op
    backward: int = 0


def prefill(
    spec: ModelSpec,
    text_tokens: int,
    head_rows: int = 1,
    trained: Collection[str] = (),
    differences: Mapping[Place, Difference] | None = None,
) -> list[Step]:
    """The operations of one sample in order of data flow, logits of `head_rows` positions last.

    `trained` names the roles (owners) that learn, `differences` the matrices with an adapter.
    """
    return Walk(spec, text_tokens, frozenset(trained), differences or {}).run(head_rows)


def decode(spec: ModelSpec, text_tokens: int) -> list[Op]:
    """The operations of one token after the prefill, every key and value cached."""
    dims = spec.dims()
    language = dims.language
    ops: list[Op] = []
    for layer, rows in enumerate(rows_by_layer(spec, text_tokens)):
        ops += [*projections(language, 1, layer), self_attention(language, 1, rows + 1, layer)]
        if layer in spec.readers:
            ops += spec.fusion.decode_ops(language, dims.fine, layer, spec.sharing)
        ops += [output(language, 1, layer), *feed_forward(language, 1, layer)]
    return [*ops, _head(language, 1)]


class Walk:
    """One pass over the model; the flags say whether a gradient is asked for at that place."""

    def __init__(
        self,
        spec: ModelSpec,
        text_tokens: int,
        trained: frozenset[str],
        differences: Mapping[Place, Difference],
    ) -> None:
        self.spec, self.dims, self.trained = spec, spec.dims(), trained
        self.differences = differences
        self.text_tokens = text_tokens
        self.rows, self.live = rows_by_layer(spec, text_tokens), live_by_layer(spec, text_tokens)
        self.steps: list[Step] = []
        # one softmax over both asks for a gradient of all keys where any of them does
        self.joint = spec.fusion is not None and spec.fusion.softmax == "joint"
        self.vision = self.connector = self.memory = self.sequence = False

    def run(self, head_rows: int) -> list[Step]:
        self.tower()
        self.connect()
        spec, language = self.spec, self.dims.language
        # embeddings are trained with the language model, anchors bring the connector's gradient
        self.sequence = "language" in self.trained
        waits = any(event.kind == "inject" for event in spec.events())
        self.sequence |= not waits and self.connector and self.dims.visual > 0
        once = spec.bridge is not None and spec.bridge.share == "band" and not spec.bridge.carry
        if once and spec.band:
            self.memory = self.bridge(None, self.memory)
        for layer, rows in enumerate(self.rows):
            self.reduce(layer)
            live = self.live[layer]
            if layer in spec.readers:
                self.band_layer(layer, rows, live, once)
            else:
                if layer in spec.band:  # the fine features are added to rows
                    self.sequence |= self.memory
                asked = self.asked(layer, rows, live)
                heads = self.attention(self_attention(language, live, rows, layer), *asked)
                self.sequence |= self.linear(output(language, live, layer), heads)
            self.sequence |= self.feed_forward(feed_forward(language, live, layer), self.sequence)
        self.linear(_head(language, head_rows), self.sequence)
        return self.steps

    def linear(self, op: Op, needed: bool) -> bool:
        """Add a map whose input asks for a gradient if `needed`; whether its output does."""
        return any(self.by_weight(op, needed))

    def by_weight(self, op: Op, needed: bool) -> list[bool]:
        """The same for an operation that applies several matrices: each one's output."""
        trained = op.owner in self.trained
        self.steps.append(Step(op, op.flops * (int(trained) + int(needed))))
        found: list[bool] = []
        for name in op.weights:
            one = self.differences.get((op.owner, op.layer or 0, name))
            found.append(trained or needed or one is not None)
            if one is not None:
                self.difference(op, one, needed)
        return found or [trained or needed]

    def difference(self, op: Op, one: Difference, needed: bool, learns: bool = True) -> None:
        """Add the two maps of an adapter beside (a part of) the map `op`: A, then B."""
        matrices = self.dims.language if op.owner == "language" else self.spec.vision
        sizes = matrices.projections()
        rows = op.flops // (2 * sum(sizes[name].size for name in op.weights))
        down = linear(rows, one.matrix.columns_in, one.rank)
        up = linear(rows, one.rank, one.matrix.columns_out)
        for flops, backward in ((down, down * (1 + int(needed))), (up, up * 2)):
            self.steps.append(Step(replace(op, flops=flops, weights=()), backward * learns))

    def attention(self, op: Op, queries: bool, keys: bool, values: bool) -> bool:
        """Add scores and mix of what asks for a gradient or not; whether the result does."""
        halves = int(queries or keys) + int(queries) + int(keys) + int(values)  # dP; dQ, dK, dV
        self.steps.append(Step(op, op.flops * halves // 2))
        return queries or keys or values

    def feed_forward(self, ops: Sequence[Op], needed: bool) -> bool:
        """Add the matrices of a feed-forward, the last of which takes what the others made."""
        inner = any([self.linear(op, needed) for op in ops[:-1]])
        return self.linear(ops[-1], inner)

    def tower(self) -> None:
        """The tower; what is asked for beside it chooses, without a gradient."""
        from eramv_lab.slots.needs import needs_of  # with torch, as the slots have it anyway

        ops = self.spec.vision.ops()
        heads, asked = False, list[bool]()  # of queries, keys and values; then of the inner rows
        for op in ops:
            if not op.owner:  # which rows merge
                self.steps.append(Step(op))
            elif op.kind == "attention":
                heads = self.attention(op, *((asked or [self.vision]) * 3)[:3])
                asked = []
            elif not op.weights:
                self.vision = self.linear(op, self.vision)
            elif op.weights[0] == "o":
                self.vision |= self.linear(op, heads)
            elif op.weights[0] == "down":
                self.vision |= self.linear(op, any(asked))
                asked = []
            else:
                asked.append(self.linear(op, self.vision))
        self.steps += [Step(op) for op in self.spec.vision.ops(needs_of(self.spec))[len(ops) :]]

    def connect(self) -> None:
        """The connector's rows; then what anchors and fine features start from."""
        spec = self.spec
        for op in spec.anchors.ops(self.dims) if spec.anchors is not None else ():
            if op.kind == "linear":  # rows made of the tower's
                self.linear(op, self.vision)
            else:
                self.steps.append(Step(op))
        self.connector = through(self, spec.connector, spec.connector_rows())
        straight = spec.bridge is not None and spec.bridge.input == "vision"
        self.memory = self.vision if straight else self.connector
        if spec.fine_connector is not None:
            self.memory = through(self, spec.fine_connector, self.dims.fine_rows)

    def bridge(self, layer: int | None, needed: bool) -> bool:
        """One application of the bridge; whether its result asks for a gradient."""
        bridge = self.spec.bridge
        if bridge is None:
            return needed
        ops = bridge.ops(self.dims, self.dims.fine, layer)
        if all(op.weights for op in ops):  # the layer's own feed-forward, behind its norm
            return self.feed_forward(ops, needed or "language" in self.trained) or needed
        for op in ops:
            before = self.vision if op.flow == "vision" else needed
            needed = self.linear(op, before) or needed
        return needed

    def asked(self, layer: int, rows: int, live: int) -> list[bool]:
        """Queries of the live rows, keys and values of all."""
        ops = projections(self.dims.language, rows, layer, live)
        return [self.linear(op, self.sequence) for op in ops]

    def reduce(self, layer: int) -> None:
        """What the reducers do before a layer: rows enter, and what ranks those that leave.

        What is chosen by a ranking has no gradient.
        """
        if enters(self.spec, layer):
            self.sequence |= self.connector
        for op in rankings(self.spec, self.text_tokens, layer):
            self.steps.append(Step(op))
            beside = [self.differences.get((op.owner, layer, name)) for name in op.weights]
            for one in filter(None, beside):
                self.difference(op, one, False, learns=False)

    def band_layer(self, layer: int, rows: int, live: int, bridged: bool) -> None:
        """Self-attention and the band's reading, in the order that the fusion has them."""
        language, fusion = self.dims.language, self.spec.fusion
        read = self.keys_values(layer, bridged)
        if fusion.at == "before":
            self.own_step(layer, live, read)
        queries, *own = self.asked(layer, rows, live)
        if self.joint:
            own = read = [a or b for a, b in zip(own, read, strict=True)]
        heads = self.attention(self_attention(language, live, rows, layer), queries, *own)
        found = self.read(layer, live, queries, read) if fusion.at == "parallel" else False
        one_output = not self.spec.sharing.own_query  # W_o once, on the sum of both
        out = self.linear(output(language, live, layer), heads or (found and one_output))
        self.sequence |= found or out
        if fusion.at == "after":
            self.own_step(layer, live, read)

    def own_step(self, layer: int, rows: int, keys_values: Sequence[bool]) -> None:
        """The band's reading as a step of its own, and the feed-forward behind it."""
        self.sequence |= self.read(layer, rows, False, keys_values)
        ops = self.spec.fusion.ffn_ops(self.dims.language, rows, layer)
        if ops:  # behind a norm of the band's own
            needed = self.sequence or "band" in self.trained
            self.sequence |= self.feed_forward(ops, needed)

    def keys_values(self, layer: int, bridged: bool) -> list[bool]:
        """Bridge, then keys and values of the fine features; whether each asks for a gradient."""
        spec, given = self.spec, self.memory
        memory = self.bridge(layer, given) if spec.bridged(layer) and not bridged else given
        if spec.bridge is not None:
            self.memory = memory if spec.bridge.carry else given
            memory = given if spec.bridge.ahead else memory
        normed = inner = memory or spec.sharing.memory_norm in self.trained
        asked = [normed, normed]
        for op in spec.fusion.memory_ops(self.dims.language, self.dims.fine, layer, spec.sharing):
            if op.weights:  # the layer's own keys and values
                asked = self.by_weight(op, normed)
            else:
                inner = self.linear(op, inner)
                asked = [one or inner for one in asked]
        return asked

    def read(self, layer: int, rows: int, queries: bool, keys_values: Sequence[bool]) -> bool:
        """The band's part for the rows of the sequence; whether its result asks for a gradient.

        Maps of flow `sequence` make queries, beside self-attention's `queries`, and gates; those
        of flow `memory` take what was read.
        """
        spec, fusion, language = self.spec, self.spec.fusion, self.dims.language
        ops = fusion.row_ops(language, rows, self.dims.fine, layer, spec.sharing)
        read = next(i for i, op in enumerate(ops) if op.kind == "attention")
        before = [op for op in ops[:read] if op.flow != "memory"]
        normed = self.sequence
        if fusion.at != "parallel":  # a step of its own may have a norm of its own
            normed |= spec.sharing.row_norm == "band" and "band" in self.trained
        queries = self.in_turn(before, normed) or (queries and spec.sharing.shared_query)
        heads = self.attention(ops[read], queries, *keys_values)
        gated = any([self.linear(op, normed) for op in ops[read + 1 :]])
        heads |= gated or (fusion.gate != "none" and "band" in self.trained)
        return self.in_turn([op for op in ops[:read] if op.flow == "memory"], heads) or heads

    def in_turn(self, ops: Sequence[Op], needed: bool) -> bool:
        """Add the layer's own map and, beside it, the band's one on the other; for their sum."""
        asked, inner = False, needed
        for op in ops:
            if op.weights:
                asked |= self.linear(op, needed)
            else:
                inner = self.linear(op, inner)
                asked |= inner
        return asked


def _head(language: LanguageDims, rows: int) -> Op:
    flops = linear(rows, language.width, language.vocab)
    return Op(part="head", kind="linear", flops=flops, owner="language")
