"""What the slots hand to one another: typed objects and the protocols of the components.

A component's config (frozen, keyword-only dataclass, no torch in its methods) prices it:
`check(dims)` yields problem texts, `ops(dims, ...)` the counted operations of a prefill,
`parameters(dims)` the number of its parameters. The module is built by `factory(config, dims)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto

import torch
from torch import Tensor


class Need(Flag):
    """What a selector or connector asks of the tower, so that nothing else is computed."""

    NONE = 0
    CLS = auto()
    CLS_ATTENTION = auto()
    KEYS = auto()
    CLS_LOGITS = auto()
    LEVELS = auto()
    """The hidden states that the connector's `levels` name."""


FLOATS = ("cls_attention", "cls_logits")
"""Cached features that stay in float32: rounding would make ties, and choose other patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """One view of every image, as the tower gives it."""

    states_NPV: Tensor
    grid: tuple[int, int]
    cls_NV: Tensor | None = None
    cls_attention_NHP: Tensor | None = None
    """The CLS row of the block that the states come out of, softmax over all rows, CLS cut off."""
    keys_NPV: Tensor | None = None
    """Keys of the block that the states come out of, heads side by side."""
    cls_logits_NP: Tensor | None = None
    """log softmax(q_CLS K / sqrt(V)) over all rows of the last block, heads side by side as one
    (PruMerge, arXiv 2403.15388), CLS cut off, float32."""
    logit_keys_NPV: Tensor | None = None
    """The keys K of `cls_logits`: those of the last block, which may lie behind the states."""
    levels: tuple[Tensor, ...] = ()
    """Hidden states [N,P,V] as asked for, lowest first; the tower's own numbers say which."""
    projected_NPD: Tensor | None = None
    """The patches behind the connector, for a selector that is `projected`; of no tower."""

    def features(self) -> dict[str, Tensor]:
        """What a cache holds of them, by name: `states`, `cls`, ..., `level_0`, `level_1`, ..."""
        found = {"states": self.states_NPV}
        found |= {name: getattr(self, field) for name, field in _FIELDS.items()}
        found |= {f"level_{i}": level for i, level in enumerate(self.levels)}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def of(
        cls, features: Mapping[str, Tensor], grid: tuple[int, int], dtype: torch.dtype
    ) -> Patches:
        """Patches of what a cache held, in `dtype`, what stays in float32 apart."""
        moved = {n: v if n in FLOATS else v.to(dtype) for n, v in features.items()}
        levels = sorted((n for n in moved if n.startswith("level_")), key=lambda n: int(n[6:]))
        return cls(
            states_NPV=moved["states"],
            grid=grid,
            levels=tuple(moved[name] for name in levels),
            **{field: moved.get(name) for name, field in _FIELDS.items()},
        )


_FIELDS = {
    "cls": "cls_NV",
    "cls_attention": "cls_attention_NHP",
    "keys": "keys_NPV",
    "cls_logits": "cls_logits_NP",
    "logit_keys": "logit_keys_NPV",
}
"""Field of Patches by the name of a cached feature, as far as one may be missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The rows that will enter the sequence, in vision width."""

    states_NAV: Tensor
    index_NA: Tensor
    """Patch of each row, ascending; -1 for a row that is no patch (CLS, a pooled row)."""
    mask_NA: Tensor | None = None
    """False where a row is padding: the selector keeps fewer of this image than it may. The first
    row is always real. None: all rows are."""


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
