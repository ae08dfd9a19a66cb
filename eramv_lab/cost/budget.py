"""Equal FLOPs: the knob's smallest whole number that costs no less than the target."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from eramv_lab.cost.formula import price
from eramv_lab.errors import InfeasibleError, UserError

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def solve(
    spec_of: Callable[[int], ModelSpec | None],
    target_flops: int,
    low: int,
    high: int,
    *,
    text_tokens: int = 64,
) -> int:
    """The smallest count in [low, high] whose whole prefill costs `target_flops` or more.

    The control never gets less compute than what it is compared with. The price must not fall as
    the count grows; counts for which `spec_of` gives None (no such model) are stepped over.
    Raises UserError where there is no model in the range, and InfeasibleError where the target is
    above the price at the top, or below that at the bottom by more than one step of the count.
    """
    model_of = cache(spec_of)

    def at_or_above(count: int) -> tuple[int, int] | None:
        for candidate in range(count, high + 1):
            spec = model_of(candidate)
            if spec is not None:
                return candidate, price(spec, text_tokens=text_tokens).prefill
        return None

    bottom = at_or_above(low)
    if bottom is None:
        raise UserError(f"no count from {low} to {high} gives a model")
    best, top = None, bottom
    left, right = low, high
    while left <= right:
        middle = (left + right) // 2
        found = at_or_above(middle)
        if found is not None and found[1] < target_flops:
            top, left = max(top, found), found[0] + 1
        else:
            best, right = found or best, middle - 1
    if best is None:
        raise InfeasibleError(
            f"no count from {low} to {high} reaches {_tera(target_flops)}: "
            f"at {top[0]} it costs {_tera(top[1])}, {_tera(target_flops - top[1])} too little"
        )
    if best == bottom and bottom[1] > target_flops:
        after = at_or_above(bottom[0] + 1)
        step = after[1] - bottom[1] if after else 0
        if bottom[1] - target_flops > step:
            raise InfeasibleError(
                f"no count from {low} to {high} is as cheap as {_tera(target_flops)}: "
                f"at {bottom[0]} it costs {_tera(bottom[1])}, "
                f"{_tera(bottom[1] - target_flops)} too much"
            )
    return best[0]


def _tera(flops: int) -> str:
    return f"{flops / 1e12:.6g} TFLOPs"
