"""Equal FLOPs: the knob's smallest whole number that costs no less than the target."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from eramv_lab.cost.formula import prefill_flops
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
    value: Callable[[int], float] = lambda count: count,
) -> int:
    """The smallest count in [low, high] whose whole prefill costs `target_flops` or more.

    The control never gets less compute than what it is compared with. The price must not fall as
    the count grows; counts for which `spec_of` gives None (no such model) are stepped over. `value`
    is what a count stands for in messages.
    Raises UserError where there is no model in the range, and InfeasibleError where the target is
    above the price at the top, or below that at the bottom by more than one step of the count.
    """
    model_of = cache(spec_of)

    def at_or_above(count: int) -> tuple[int, int] | None:
        for candidate in range(count, high + 1):
            spec = model_of(candidate)
            if spec is not None:
                return candidate, prefill_flops(spec, text_tokens)
        return None

    bottom = at_or_above(low)
    if bottom is None:
        raise UserError(f"no count from {value(low):g} to {value(high):g} gives a model")
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
        raise _out_of_reach(low, high, top, target_flops, value)
    if best == bottom and bottom[1] > target_flops:
        after = at_or_above(bottom[0] + 1)
        step = after[1] - bottom[1] if after else 0
        if bottom[1] - target_flops > step:
            raise _out_of_reach(low, high, bottom, target_flops, value)
    return best[0]


class OutOfReach(InfeasibleError):
    """No count costs so much, or so little: at `count`, the nearest, it is `flops`."""

    def __init__(self, message: str, count: float, flops: int) -> None:
        super().__init__(message)
        self.count = count
        self.flops = flops


def _out_of_reach(
    low: int,
    high: int,
    nearest: tuple[int, int],
    target: int,
    value: Callable[[int], float],
) -> OutOfReach:
    count, flops = value(nearest[0]), nearest[1]
    less = flops < target
    how = f"reaches {_tera(target)}" if less else f"is as cheap as {_tera(target)}"
    gap = f"{_tera(abs(target - flops))} too {'little' if less else 'much'}"
    message = (
        f"no count from {value(low):g} to {value(high):g} {how}: "
        f"at {count:g} it costs {_tera(flops)}, {gap}"
    )
    return OutOfReach(message, count, flops)


def _tera(flops: int) -> str:
    return f"{flops / 1e12:.6g} TFLOPs"
