"""Reducers: what leaves the sequence on its way through the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Before layer `layer`, all but `keep` visual rows of each image leave the sequence.

    `rank` orders them: by the attention that the prompt's last row pays them in the layer before
    (`previous`), at random (`random`), or by place (`none`: the first stay).
    """

    layer: int
    keep: int
    rank: Literal["none", "previous", "random"] = "none"
