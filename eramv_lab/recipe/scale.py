"""Numbers said for a model of a stated size, so that one recipe fits every depth and grid.

`{at: 16, of: 32}` is layer 16 of a language model of 32 layers, `{rows: 64, of: 576}` are 64 of 576
patches, `{level: 12, of: 23}` is block 12 of a tower of which 23 run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eramv_lab.errors import Problem

OF = "of"
KINDS = ("at", "rows", "level")
"""What a scaled number may count: layers of the language model, patches, blocks of the tower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model has of each kind; None where that is not known."""

    at: int | None = None
    rows: int | None = None
    level: int | None = None


def is_scaled(value: Any) -> bool:
    """Whether `value` is said for a stated size: a mapping with the key `of`."""
    return isinstance(value, Mapping) and OF in value


def bare(value: Any) -> Any:
    """Plain data without the keys whose numbers are scaled: what a size is read from."""
    if isinstance(value, Mapping):
        return {key: bare(one) for key, one in value.items() if not is_scaled(one)}
    if isinstance(value, list):
        return [bare(one) for one in value if not is_scaled(one)]
    return value


def scaled(value: Any, sizes: Sizes, key: str, problems: list[Problem]) -> Any:
    """Plain data with every scaled number, or list of them, as this model has it.

    Of N there are in a model of n: layer (or block) x of N is floor(x n / N + 1/2), at least 1
    where x > 0 and at most n - 1 where x < N, of a list each once, ascending; r rows of N are
    max(1, floor(r n / N + 1/2)). At the stated size they are themselves. Where a size is not known
    the stated one stands for it: what is wrong with the model is told elsewhere.
    """
    if is_scaled(value):
        return _scaled(value, sizes, key, problems)
    if isinstance(value, Mapping):
        return {k: scaled(one, sizes, f"{key}.{k}", problems) for k, one in value.items()}
    if isinstance(value, list):
        return [scaled(one, sizes, f"{key}.{i}", problems) for i, one in enumerate(value)]
    return value


def _scaled(value: Mapping[str, Any], sizes: Sizes, key: str, problems: list[Problem]) -> Any:
    before = len(problems)
    of, kinds = value[OF], [name for name in value if name != OF]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        found = ", ".join([*kinds, OF])
        allowed = tuple(f"{{{name}, {OF}}}" for name in KINDS)
        message = f"a number for a stated size has two keys, found {found}"
        problems.append(Problem(message=message, key=key, allowed=allowed))
        return 1
    kind, numbers = kinds[0], value[kinds[0]]
    if not _whole(of, 1):
        message = f"expected a whole number >= 1, found {of!r}"
        problems.append(Problem(message=message, key=f"{key}.{OF}"))
    least = 1 if kind == "rows" else 0
    for one in numbers if isinstance(numbers, list) and numbers else [numbers]:
        if not _whole(one, least):
            message = f"expected a whole number >= {least} or a list of them, found {one!r}"
            problems.append(Problem(message=message, key=f"{key}.{kind}"))
        elif kind != "rows" and _whole(of, 1) and one > of:
            message = f"{one} is more than the {of} that it is said for"
            problems.append(Problem(message=message, key=f"{key}.{kind}"))
    if len(problems) > before:
        return 1
    there = getattr(sizes, kind) or of

    def fitted(number: int) -> int:
        near = (2 * number * there + of) // (2 * of)  # floor(number * there / of + 1/2)
        if number:
            near = max(1, near)
        return min(near, there - 1) if kind != "rows" and number < of else near

    if not isinstance(numbers, list):
        return fitted(numbers)
    found = [fitted(number) for number in numbers]
    return found if kind == "rows" else sorted(set(found))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
