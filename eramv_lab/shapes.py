"""The letters of tensor shapes, the sizes that price a model, and the operations it is priced by.

Tensor names carry a suffix of these letters, one per axis:

    B samples   N images    S rows in the decoder   T rows of the input   P patches   A anchors
    M fine features (memory) of a sample   V vision width   D language width   H heads
    d width of a head   R ranking rows   C colour channels   K vocabulary

No torch here: recipes, prices and reports read these without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One matrix that every layer of a transformer has, beside which an adapter may stand."""

    path: str
    """Of its module below the part that holds the layers, `{}` for the layer."""
    columns_in: int
    columns_out: int

    @property
    def size(self) -> int:
        """Numbers in the matrix."""
        return self.columns_in * self.columns_out


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionDims:
    """Sizes of a vision tower: what later slots and prices need to know."""

    image: int
    """Side of the square input, pixels."""
    grid: tuple[int, int]
    """Patches, rows by columns."""
    width: int
    """V."""
    heads: int
    ffn: int
    layers: int
    """Layers that run, up to the features (not those the checkpoint holds)."""
    has_cls: bool
    merged: bool = False
    """Its rows were made of several patches each (ToMe): `grid` is one line, and no row a place."""

    @property
    def patches(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Rows inside the tower: patches and, where there is one, CLS."""
        return self.patches + int(self.has_cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageDims:
    """Sizes of a decoder-only language model with a gated (three-matrix) feed-forward."""

    width: int
    """D."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool = False
    """Head and embedding are one matrix."""
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False

    @property
    def query_width(self) -> int:
        """Columns of the query projection: heads x head width."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of the key (or value) projection."""
        return self.kv_heads * self.head_dim

    def projections(self) -> dict[str, Projection]:
        """The matrices of a layer by what they make: q, k, v, o, gate, up, down."""
        width, inner, ffn = self.width, self.query_width, self.ffn
        sizes = {
            "self_attn": {
                "q": (width, inner),
                "k": (width, self.kv_width),
                "v": (width, self.kv_width),
                "o": (inner, width),
            },
            "mlp": {"gate": (width, ffn), "up": (width, ffn), "down": (ffn, width)},
        }
        return {
            name: Projection(path=f"layers.{{}}.{block}.{name}_proj", columns_in=a, columns_out=b)
            for block, names in sizes.items()
            for name, (a, b) in names.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """Everything a component may know of its neighbours."""

    vision: VisionDims
    language: LanguageDims
    anchors: int = 0
    """A: rows the selector hands to the connector (CLS included)."""
    visual: int = 0
    """Visual rows in the sequence, after the connector: its own count, or that of the anchors."""
    fine: int = 0
    """M: fine features a band layer reads; 0 without a band."""
    fine_rows: int = 0
    """Rows of the tower that the fine features are made of: M, but for a `fine_connector` that
    makes rows of its own."""
    band: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One counted operation of a forward pass: a product of matrices (1 MAC = 2 FLOPs).

    `linear` has a weight (its gradient costs one more forward when trained, and one more for the
    input's when something below is trained); `attention` has none (twice a forward).
    `flow` says whose gradient passes through: `sequence` (the decoder rows), `memory` (the fine
    features), `vision` (inside the tower), `connector`. Inside a connector `vision` reads the
    tower's rows as they are, `memory` what is made of them for its own rows to read (behind a
    norm or matrix), `connector` these rows.
    """

    part: str
    """vision, connector, bridge, band, language, reducer or head: the column it is summed in."""
    kind: Literal["linear", "attention", "conv"]
    flops: int
    owner: str
    """Path prefix of the module that holds the weight, as train roles name it
    (`vision`, `connector`, `language`, `bridge`, `band`, `fusion`)."""
    layer: int | None = None
    flow: Literal["vision", "connector", "memory", "sequence"] = "sequence"
    weights: tuple[str, ...] = ()
    """Matrices of layer `layer` that it applies, by their names in `projections`."""


class Flops(int):
    """FLOPs of a product of matrices, which know what it reads and writes.

    A plain number as well: where one is all that an operation tells, it moves nothing.
    """

    weight: int
    """Numbers in its matrix; 0 where both sides are made of the sample."""
    moved: int
    """Numbers that it reads and writes for one sample, the matrix apart."""

    @staticmethod
    def of(flops: int, weight: int, moved: int) -> Flops:
        """A product of all three."""
        made = Flops(flops)
        made.weight, made.moved = weight, moved
        return made

    def __mul__(self, times: int) -> Flops:
        """So many products of the same sizes."""
        return Flops.of(int(self) * times, self.weight * times, self.moved * times)

    __rmul__ = __mul__


def linear(rows: int, columns_in: int, columns_out: int) -> Flops:
    """FLOPs of `rows` rows through a `columns_in` x `columns_out` matrix."""
    weight = columns_in * columns_out
    return Flops.of(2 * rows * weight, weight, rows * (columns_in + columns_out))


def attention(queries: int, keys: int, width: int) -> Flops:
    """FLOPs of scores and mix for all heads together, full square (no causal halving)."""
    return Flops.of(4 * queries * keys * width, 0, 2 * (queries + keys) * width)
