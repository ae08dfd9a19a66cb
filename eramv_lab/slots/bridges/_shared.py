"""What all bridges share: whose copy a layer uses, and whether one layer builds on the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

from eramv_lab.shapes import Op, linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from eramv_lab.recipe.model_spec import ModelSpec

Activation = Literal["gelu", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "silu": silu}


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """A bridge from the fine features to what the band's keys and values are made of."""

    input: ClassVar[Literal["language", "vision"]] = "language"
    """Width of what comes in: after the connector, or as the tower gave it."""

    share: Literal["layer", "band"] = "layer"
    """`layer`: each band layer has its own; `band`: one for all of them."""
    carry: bool = False
    """Each band layer works on the last one's result instead of on the same features."""

    @property
    def copies(self) -> bool:
        """It begins as a copy of the connector, which its module's `reset_from` is given."""
        return False

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Nothing is wrong with it."""
        yield from ()


def matrix(
    rows: int,
    columns_in: int,
    columns_out: int,
    layer: int | None,
    *,
    owner: str = "bridge",
    flow: Literal["memory", "vision"] = "memory",
    weights: tuple[str, ...] = (),
) -> Op:
    """The price of `rows` fine features through one matrix of a bridge."""
    flops = linear(rows, columns_in, columns_out)
    return Op(
        part="bridge",
        kind="linear",
        flops=flops,
        owner=owner,
        layer=layer,
        flow=flow,
        weights=weights,
    )
