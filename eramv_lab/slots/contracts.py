"""What the slots hand to one another: typed objects and the protocols of the components.

A component's config (frozen, keyword-only dataclass, no torch in its methods) prices it:
`check(dims)` yields problem texts, `ops(dims, ...)` the counted operations of a prefill,
`parameters(dims)` the number of its parameters. The module is built by `factory(config, dims)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

from torch import Tensor


class Need(Flag):
    """What a selector or connector asks of the tower, so that nothing else is computed."""

    NONE = 0
    CLS = auto()
    CLS_ATTENTION = auto()
    PROJECTED = auto()
    """Of the connector: a selector is handed the patches in language width as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """One view of every image, as the tower gives it."""

    states_NPV: Tensor
    grid: tuple[int, int]
    cls_NV: Tensor | None = None
    cls_attention_NHP: Tensor | None = None
    """The CLS row of the block that the states come out of, softmax over all rows, CLS cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The rows that will enter the sequence, in vision width."""

    states_NAV: Tensor
    index_NA: Tensor
    """Patch of each row, ascending; -1 for a row that is no patch (CLS, a pooled row)."""
    mask_NA: Tensor | None = None
    """True where a row is real, for a selector whose count differs by image; None: all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of an image, for a connector that reads it."""

    ids_BT: Tensor
    """Words of the question alone, in the language model's vocabulary; one row for each image."""
    mask_BT: Tensor
    """True on words, False on padding, on either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a connector that is not per token has made of the images."""

    states_NAD: Tensor
    """In language width."""
    index_NA: Tensor
    """Patch of each row; -1 for a row of the connector's own (a learned query)."""
    mask_NA: Tensor | None = None
    """True where a row is real; None: all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The fine features as a sample sees them; the keys and values of the band."""

    states_BMD: Tensor
    """In language width; [B,M,V] for a bridge whose `input` is `vision`."""
    mask_BM: Tensor | None
    """True where a feature is real (a sample without an image has none); None: all are."""
    positions_BM: Tensor | None
    """Rotary position of each feature; None: keys and queries of the band are not rotated."""
    image_BM: Tensor
    """Ordinal (1-based) of the feature's image within its sample, for `visible`."""
