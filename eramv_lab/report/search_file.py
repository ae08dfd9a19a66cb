"""search.json read and held to its shape: all that is wrong with it, in one message."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.recipe.schema import METRICS
from eramv_lab.report.search import STATES, Finalist, Goal, Limit, Search, Trial
from eramv_lab.report.shape import (
    Key,
    Shape,
    faults,
    is_number,
    is_object,
    is_text,
    is_whole,
    list_of,
    read_object,
)

SEARCH_FILE = "search.json"
SCHEMA = 1
LIMITS = {
    "prefill": ("prefill_tflops", 1e12),
    "training": ("train_pflops", 1e15),
    "parameters": ("parameters", 1.0),
    "kv": ("kv_mib", 2.0**20),
}
"""What a budget bounds: its metric, and how much one unit of that metric is."""
ROW = (*METRICS, "accuracy_low", "accuracy_high", "n")


def _number(what: str = "a number") -> Key:
    return Key(what=what, sound=is_number, needed=False)


def _one_of(names: Sequence[str]) -> Key:
    return Key(what="one of " + ", ".join(names), sound=lambda v: is_text(v) and v in names)


def _maybe_number(value: Any) -> bool:
    return value is None or is_number(value)


_NAME = Key(what="a name", sound=is_text)
_TEXT = Key(what="a text", sound=lambda v: isinstance(v, str), needed=False)
_WHOLE = Key(what="a whole number from 0", sound=is_whole)
_MAYBE_WHOLE = Key(what="a whole number from 0", sound=is_whole, needed=False)
_OBJECT = Key(what="keys and values", sound=is_object, needed=False)
_NUMBERS = Key(what="numbers", sound=list_of(_maybe_number), needed=False)
_FLAG = Key(what="true or false", sound=lambda v: isinstance(v, bool), needed=False)


def _objects(what: str, needed: bool = False) -> Key:
    return Key(what=f"a list of {what}", sound=list_of(is_object), needed=needed)


SEARCH: Shape = {
    "schema": Key(what=f"{SCHEMA}", sound=lambda v: is_whole(v) and v == SCHEMA),
    "study": _NAME,
    "question": _TEXT,
    "goals": Key(what="one goal or two", sound=lambda v: list_of(is_object)(v) and 0 < len(v) < 3),
    "budget": _objects("limits"),
    "reference": _OBJECT,
    "reference.said": _TEXT,
    "space": _OBJECT,
    "space.keys": _OBJECT,
    "space.points": _number(),
    "space.layers": _MAYBE_WHOLE,
    "sampler": _TEXT,
    "pruner": _TEXT,
    "asked": _MAYBE_WHOLE,
    "seed": _MAYBE_WHOLE,
    "spent": _OBJECT,
    **{f"spent.{key}": _number() for key in ("wall_seconds", "trial_seconds", "train_pflops")},
    "startup_seconds": _OBJECT,
    **{f"startup_seconds.{key}": _number() for key in ("median", "first")},
    "trials": _objects("trials", needed=True),
    "importance": _OBJECT,
    "finalists": _objects("finalists"),
    "best": _OBJECT,
    "best.number": _WHOLE,
    "best.changes": _OBJECT,
}
"""What search.json must hold. `space.layers`: how many layers there are for a band, where known."""
PARTS: dict[str, Shape] = {
    "goals": {"metric": _NAME, "direction": _one_of(("maximize", "minimize"))},
    "budget": {
        "name": _one_of(tuple(LIMITS)),
        "limit": Key(what="a number", sound=is_number),
        "said": _TEXT,
    },
    "trials": {
        "number": _WHOLE,
        "label": _NAME,
        "state": _one_of(STATES),
        "given": _TEXT,
        "params": Key(what="keys and values", sound=is_object),
        "values": _NUMBERS,
        "step": _MAYBE_WHOLE,
        **{metric: _number() for metric in ROW},
        **{key: _MAYBE_WHOLE for key in ("band_start", "band_length", "anchors", "resumed")},
        "plain": _FLAG,
        **{key: _TEXT for key in ("folder", "hash", "error")},
    },
    "finalists": {"number": _WHOLE, "label": _TEXT, "seeds": _NUMBERS, "values": _NUMBERS},
}
"""What each member of the lists in it must hold."""


def read_search(study_dir: Path) -> Search | None:
    """The search in a study's folder, None where there is none.

    A number that is not finite counts as none. Raises LabError with all that is wrong in the file.
    """
    file = study_dir / SEARCH_FILE
    try:
        found = _sound_texts(read_object(file, SEARCH, "a search"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RecursionError) as error:
        raise LabError(f"{file} cannot be read: {error}") from error
    wrong = [
        fault
        for part, shape in PARTS.items()
        for i, member in enumerate(found.get(part) or [])
        for fault in faults(member, shape, f"{part}[{i}].")
    ]
    trials = [_trial(t) for t in found["trials"]] if not wrong else []
    twice = [n for n, count in Counter(t.number for t in trials).items() if count > 1]
    wrong += [f"trials: {n} is there twice" for n in twice]
    if len({g.get("metric") for g in found["goals"]}) < len(found["goals"]):
        wrong.append("goals: both are of the same metric")
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise LabError(f"{file} is not a search: " + "; ".join(wrong[:10]) + more)
    space, best = found.get("space") or {}, found.get("best") or {}
    return Search(
        study=found["study"],
        question=found.get("question") or "",
        goals=[Goal(g["metric"], g["direction"] == "maximize") for g in found["goals"]],
        budget=[_limit(limit) for limit in found.get("budget") or [] if finite(limit["limit"])],
        reference=_numbers(found.get("reference")),
        reference_said=(found.get("reference") or {}).get("said") or "",
        space=space.get("keys") or {},
        layers=space.get("layers"),
        points=finite(space.get("points")),
        sampler=found.get("sampler") or "",
        pruner=found.get("pruner") or "",
        asked=found.get("asked"),
        seed=found.get("seed"),
        spent=_numbers(found.get("spent")),
        startup=_numbers(found.get("startup_seconds")),
        trials=sorted(trials, key=lambda t: t.number),
        importance=_numbers(found.get("importance")),
        finalists=[_finalist(f) for f in found.get("finalists") or []],
        best=best.get("number") if best.get("number") in {t.number for t in trials} else None,
        changes=best.get("changes") or {},
    )


def _trial(found: Mapping[str, Any]) -> Trial:
    start, length = found.get("band_start"), found.get("band_length")
    return Trial(
        number=found["number"],
        label=" ".join(found["label"].split()),
        state=found["state"],
        given=found.get("given") or None,
        params=found["params"],
        values=[finite(v) for v in found.get("values") or []],
        step=found.get("step"),
        row=_numbers({key: found.get(key) for key in ROW}),
        band=(start, length) if start is not None and length else None,
        anchors=found.get("anchors"),
        plain=bool(found.get("plain")),
        resumed=found.get("resumed") or 0,
        folder=found.get("folder"),
        hash=found.get("hash"),
        error=found.get("error") or None,
    )


def _limit(found: Mapping[str, Any]) -> Limit:
    metric, size = LIMITS[found["name"]]
    text = found.get("said") or ""
    return Limit(found["name"], metric, found["limit"] / size, text)


def _finalist(found: Mapping[str, Any]) -> Finalist:
    seeds = [int(seed) for seed in found.get("seeds") or []]
    values = {
        seed: number
        for seed, value in zip(seeds, found.get("values") or [], strict=False)
        if (number := finite(value)) is not None
    }
    mean = sum(values.values()) / len(values) if values else None
    label = found.get("label") or f"t{found['number']:03d}"
    return Finalist(number=found["number"], label=label, values=values, seeds=seeds, mean=mean)


def finite(value: Any) -> float | None:
    """The number, None where it is none or too large for one."""
    try:
        return value if is_number(value) and math.isfinite(value) else None
    except OverflowError:
        return None


def _sound_texts(value: Any) -> Any:
    """The same with half characters replaced: they come with paths and cannot be written."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_sound_texts(member) for member in value]
    if isinstance(value, dict):
        return {_sound_texts(key): _sound_texts(member) for key, member in value.items()}
    return value


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    found = {key: finite(value) for key, value in (values or {}).items()}
    return {key: value for key, value in found.items() if value is not None}
