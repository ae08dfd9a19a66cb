"""The spellings of a band: every way to write which layers read the fine features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eramv_lab.errors import Problem, nearest

SPELLINGS = {
    "layers": ("layers",),
    "start/length": ("start", "length", "stride"),
    "every": ("every",),
    "place": ("place",),
}
"""The ways to say where, and the keys of each."""
WHERE = tuple(key for keys in SPELLINGS.values() for key in keys)
PLACES = ("early", "middle", "late", "all")


def split_band(value: Any) -> tuple[Any, dict[str, Any] | None]:
    """A `band:` value parted into where (for `band_layers`) and how (the fusion's keys)."""
    if isinstance(value, Mapping):
        where = {k: v for k, v in value.items() if k in WHERE}
        how = {k: v for k, v in value.items() if k not in WHERE}
        if how.get("type") == "none":
            return "none", None
        return where, how
    return value, None


def is_gone(where: Any) -> bool:
    """Whether this says that there is no band: `none`, or a length of 0, by which a search can
    shorten a band until it is gone."""
    length = where.get("length") if isinstance(where, Mapping) else None
    return where in (None, "none") or (length == 0 and length is not False)


def band_layers(where: Any, depth: int, key: str, problems: list[Problem]) -> tuple[int, ...]:
    """The layers that `where` names in a language model of `depth` layers, ascending.

    Spellings: `none`; `all`, `early`, `middle`, `late` (a third, the middle half, a third);
    a list of layers; `{layers: [...]}`; `{start, length, stride}`; `{every: n}`; `{place: word}`.
    """
    if where is None or where == "none":
        return ()
    if isinstance(where, str):
        return _place(where, depth, key, problems)
    if isinstance(where, list | tuple):
        return _listed(list(where), depth, key, problems)
    if not isinstance(where, Mapping):
        problems.append(
            Problem(
                message=f"expected layers, found {where!r}",
                key=key,
                allowed=("none", *PLACES, "[2, 3]", "{start: 2, length: 2}", "{every: 3}"),
            )
        )
        return ()
    spellings = [name for name, keys in SPELLINGS.items() if where.keys() & set(keys)]
    if len(spellings) != 1:
        found = " and ".join(spellings) or "none of them"
        problems.append(
            Problem(
                message=f"say where the band is in one way, found {found}",
                key=key,
                allowed=("layers", "start + length (+ stride)", "every", "place"),
            )
        )
        return ()
    if "layers" in where:
        value = where["layers"]
        layers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        return _listed(layers, depth, key, problems)
    if "place" in where:
        return _place(where["place"], depth, f"{key}.place", problems)
    if "every" in where:
        every = _number(where, "every", 1, key, problems)
        return tuple(range(every - 1, depth, every)) if every else ()
    start = _number(where, "start", 0, key, problems, default=0)
    length = _number(where, "length", 0, key, problems)
    stride = _number(where, "stride", 1, key, problems, default=1)
    if start is None or length is None or stride is None:
        return ()
    last = start + (length - 1) * stride
    if length and last >= depth:
        step = f" with stride {stride}" if stride > 1 else ""
        problems.append(
            Problem(
                message=f"start {start} + length {length}{step} reaches layer {last + 1}, "
                f"the language model has {depth}",
                key=key,
            )
        )
        return ()
    return tuple(range(start, last + 1, stride))


def _number(
    where: Mapping[str, Any],
    name: str,
    least: int,
    key: str,
    problems: list[Problem],
    default: int | None = None,
) -> int | None:
    value = where.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        found = "nothing" if value is None else repr(value)
        problems.append(
            Problem(
                message=f"expected a whole number >= {least}, found {found}", key=f"{key}.{name}"
            )
        )
        return None
    return value


def _place(word: Any, depth: int, key: str, problems: list[Problem]) -> tuple[int, ...]:
    third = max(1, depth // 3)
    quarter = depth // 4
    places = {
        "all": range(depth),
        "early": range(third),
        "middle": range(quarter, max(quarter + 1, depth - quarter)),
        "late": range(depth - third, depth),
    }
    if not isinstance(word, str) or word not in places:
        allowed = ("none", *PLACES)
        problems.append(
            Problem(
                message=f"there is no band called {word!r}",
                key=key,
                allowed=allowed,
                nearest=nearest(str(word), allowed),
            )
        )
        return ()
    return tuple(places[word])


def _listed(layers: list[Any], depth: int, key: str, problems: list[Problem]) -> tuple[int, ...]:
    wrong = [x for x in layers if isinstance(x, bool) or not isinstance(x, int)]
    outside = [x for x in layers if x not in wrong and not 0 <= x < depth]
    if wrong or not layers:
        problems.append(Problem(message=f"expected layer numbers, found {layers!r}", key=key))
    elif outside:
        problems.append(
            Problem(
                message=f"layer {outside[0]} is outside the language model, which has {depth} "
                f"layers (0 to {depth - 1})",
                key=key,
            )
        )
    elif len(set(layers)) != len(layers):
        problems.append(Problem(message=f"a layer is named twice in {layers!r}", key=key))
    else:
        return tuple(sorted(layers))
    return ()
