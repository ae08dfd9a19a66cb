"""What a recipe costs, in closed form: exact FLOPs, parameters and bytes, without torch or weights.

1 MAC is 2 FLOPs; products of matrices and convolutions only; attention full square; a sample has
one image; `text_tokens` counts every row of the sequence that is not visual, BOS included. Where a
selector keeps fewer rows of some images than of others, it is the image with the most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eramv_lab.cost.flow import live_by_layer, rows_by_layer
from eramv_lab.cost.ops import decode, prefill
from eramv_lab.recipe.lora import differences

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

TRAINED = {
    "vision": "frozen",
    "connector": "full",
    "language": "full",
    "bridge": "full",
    "band": "full",
}
"""Treatment of the roles where a recipe says nothing."""

VALUE = 2
"""Bytes of a cached or kept value (fp16, bf16)."""

PARTS = ("vision", "connector", "bridge", "language", "band", "reducer", "head")
"""Parts of a prefill in the order of the data."""

COLUMNS = {"band": "llm", "language": "llm", "reducer": "llm"}
"""Column in which a part's FLOPs are summed, where it is not its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The price of one sample: FLOPs of a prefill, a decode step and a training step.

    Bytes are those of `batch` samples side by side; everything else is of one.
    """

    parts: Mapping[str, int]
    """FLOPs of a prefill by part: vision, connector, bridge, language (the decoder), band (what
    its layers add, the bridge apart), reducer (its ranking), head (logits of the last row)."""
    decode: int
    """FLOPs of one token after the prefill."""
    train: int
    """FLOPs of one sample in a training step, forward and backward."""
    parameters_by_role: Mapping[str, int]
    """Parameters of vision, connector, bridge, band, and language (with embedding and head)."""
    trainable: int
    """Parameters that learn."""
    kv_bytes: int
    """Cached keys and values after the prefill: rows left in each layer, and the band's."""
    activation_bytes: int
    """Estimate of what the decoder keeps for the backward pass, without checkpointing."""
    visual_tokens: int
    """Visual rows in the sequence; the most of an image, where a selector keeps fewer of some."""
    fine_tokens: int
    """Fine features that a band layer reads."""
    text_tokens: int
    supervised_tokens: int
    """Positions of a training sample that have a label."""
    batch: int

    def column(self, name: str) -> int:
        """FLOPs of vision, connector, bridge, llm (body, band and reducer) or head."""
        return sum(n for part, n in self.parts.items() if COLUMNS.get(part, part) == name)

    @property
    def prefill(self) -> int:
        """FLOPs of the whole prefill."""
        return sum(self.parts.values())

    @property
    def parameters(self) -> int:
        """All parameters, trained or not."""
        return sum(self.parameters_by_role.values())

    def to_json(self) -> dict[str, Any]:
        """Flat numbers in the units of their names."""
        columns = ("vision", "connector", "bridge", "llm", "head")
        return {
            **{f"{name}_tflops": self.column(name) / 1e12 for name in columns},
            "prefill_tflops": self.prefill / 1e12,
            "decode_gflops": self.decode / 1e9,
            "train_tflops": self.train / 1e12,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "kv_mib": self.kv_bytes / 2**20,
            "activation_mib": self.activation_bytes / 2**20,
            "visual_tokens": self.visual_tokens,
            "fine_tokens": self.fine_tokens,
            "text_tokens": self.text_tokens,
            "supervised_tokens": self.supervised_tokens,
            "batch": self.batch,
        }

    def rows(self) -> list[tuple[str, float, float]]:
        """(part, TFLOPs, share of the prefill) of every part that costs something, and the sum."""
        named = {part: n for part, n in self.parts.items() if n} | {"prefill": self.prefill}
        return [(part, n / 1e12, n / self.prefill) for part, n in named.items()]


def price(
    spec: ModelSpec,
    *,
    text_tokens: int = 64,
    supervised_tokens: int = 1,
    batch: int = 1,
    train: Mapping[str, Any] | None = None,
    cached_vision: bool = False,
) -> Cost:
    """The cost of `spec` for one image and `text_tokens` rows of text.

    Args:
        text_tokens: rows of the sequence that are not visual; all of them are the question to a
            connector that reads it.
        supervised_tokens: positions with a label in a training sample; the head runs on these.
        batch: samples side by side, for the bytes.
        train: treatment (`full`, `frozen`, `{lora: ...}`) by role; a role that is not named stays
            frozen. A low-rank difference costs while it learns; merged, it costs nothing.
        cached_vision: the tower is frozen and training reads its features from a cache.
    """
    roles = TRAINED if train is None else train
    trained = {role for role, how in roles.items() if how == "full"}
    beside = differences(roles, spec)
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for step in prefill(spec, text_tokens):
        parts[step.op.part] += step.op.flops
    training = prefill(spec, text_tokens, supervised_tokens, trained, beside)
    still = "vision" not in trained and not any(role == "vision" for role, _, _ in beside)
    skipped = {"vision"} if cached_vision and still else set[str]()
    parameters = count_parameters(spec)
    dims = spec.dims()
    return Cost(
        parts=parts,
        decode=sum(op.flops for op in decode(spec, text_tokens)),
        train=sum(s.op.flops + s.backward for s in training if s.op.part not in skipped),
        parameters_by_role=parameters,
        trainable=sum(n for role, n in parameters.items() if role in trained)
        + sum(one.parameters for one in beside.values()),
        kv_bytes=batch * kv_values(spec, text_tokens) * VALUE,
        activation_bytes=batch * kept_values(spec, text_tokens, supervised_tokens) * VALUE,
        visual_tokens=dims.visual,
        fine_tokens=dims.fine if spec.band else 0,
        text_tokens=text_tokens,
        supervised_tokens=supervised_tokens,
        batch=batch,
    )


def prefill_flops(spec: ModelSpec, text_tokens: int) -> int:
    """FLOPs of the whole prefill alone: `price(...).prefill`, which a search asks for often."""
    return sum(step.op.flops for step in prefill(spec, text_tokens))


def count_parameters(spec: ModelSpec) -> dict[str, int]:
    """Parameters by the role that trains them."""
    dims = spec.dims()
    found: Counter[str] = Counter(
        vision=spec.vision.parameters(),
        connector=0,
        language=spec.language.parameters(),
    )
    for one in (spec.connector, spec.fine_connector):
        found["connector"] += one.parameters(dims) if one is not None else 0
    if spec.anchors is not None:
        found["connector"] += spec.anchors.parameters(dims)
    if spec.bridge is not None:
        copies = 1 if spec.bridge.share == "band" else sum(map(spec.bridged, spec.band))
        found["bridge"] += copies * spec.bridge.parameters(dims)
    if spec.fusion is not None:
        found["band"] += len(spec.band) * spec.fusion.parameters(dims.language, spec.sharing)
    return dict(found)


def kv_values(spec: ModelSpec, text_tokens: int) -> int:
    """Numbers in the caches of one sample after the prefill."""
    dims = spec.dims()
    own = sum(rows_by_layer(spec, text_tokens)) * dims.language.kv_width
    if not spec.readers:
        return 2 * own
    read = len(spec.readers) * dims.fine * spec.sharing.heads_of(dims.language).kv_width
    return 2 * (own + read)


def kept_values(spec: ModelSpec, text_tokens: int, supervised_tokens: int) -> int:
    """Numbers that the decoder of one sample keeps for the backward pass, roughly.

    A row keeps the input and the output of both norms, q, k, v and the heads' output, and four
    inner vectors of the feed-forward; a fine feature in a band layer, or a frozen row, its input,
    its normed form, k and v. The tower, the connector, the bridge's inside and a band's
    feed-forward are left out.
    """
    dims = spec.dims()
    language = dims.language
    row = 2 * language.width + 2 * language.query_width + 4 * language.ffn  # of a live one
    still = 2 * language.width + 2 * language.kv_width
    rows, live = rows_by_layer(spec, text_tokens), live_by_layer(spec, text_tokens)
    band = 0
    if spec.readers:
        heads = spec.sharing.heads_of(language)
        fine = 2 * language.width + 2 * heads.kv_width
        read = 2 * heads.query_width  # the band's queries and its heads' output
        band = sum(dims.fine * fine + live[layer] * read for layer in spec.readers)
    return (
        sum(rows) * still
        + sum(live) * row
        + band
        + supervised_tokens * (language.width + language.vocab)
    )
