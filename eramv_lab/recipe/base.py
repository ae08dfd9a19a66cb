"""The base that arms start from: a recipe of its own, known by its hash."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.load import Document, interpolated, read_recipe
from eramv_lab.recipe.nodes import Mark, find
from eramv_lab.recipe.parse import plain

PARSE = "eramv_lab.train.base.recipe:parse_base"
"""What reads a base's keys, by name: recipes do not import `train`."""
ABOUT = ("question", "expect")
"""Keys of a base's recipe that are about it, not of it."""
UNUSED = {"world": ("val",)}
"""Keys by section that a base has and never reads: its hash does not know them."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base's recipe, checked."""

    path: str
    """Where it stands, as the working directory sees it."""
    plain: dict[str, Any]
    """Its keys as written, `extends` followed."""
    hash: str
    """8 hex digits of everything that makes the base but its seed, defaults included."""
    parts: Mapping[str, Any]
    """`vision` and `language`, every key given: what an arm that starts from it must share."""


def digest(value: Any) -> str:
    """8 hex digits of plain data; the order of keys counts."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_path(written: str, mark: Mark) -> Path:
    """What `base.recipe` or `base.model` means: beside the file that says so, else from here."""
    beside = Path(mark.file).parent / written
    return beside if mark.line is not None and beside.exists() else Path(written)


def read_base(path: Path, overrides: tuple[str, ...] = ()) -> Base:
    """The base of a recipe file. Raises UserError with every problem found, file and line."""
    document = read_recipe(path, overrides)
    problems = list(document.problems)
    data = interpolated(document.shared, problems)
    if problems:
        raise UserError(problems)
    own = {key: value for key, value in data.items() if key not in ABOUT}
    module, _, name = PARSE.partition(":")
    try:
        parsed = plain(getattr(importlib.import_module(module), name)(own), known=True)
    except UserError as error:
        raise UserError(located(document, p) for p in error.problems) from None
    for section, keys in UNUSED.items():
        for key in keys:
            parsed.get(section, {}).pop(key, None)
    parts = {key: parsed[key] for key in ("vision", "language") if key in parsed}
    return Base(
        path=Path(os.path.relpath(path)).as_posix(), plain=own, hash=digest(parsed), parts=parts
    )


def located(document: Document, problem: Problem) -> Problem:
    """The problem with the file and line of its key."""
    mark = find(document.shared, problem.key or "")
    return replace(problem, file=mark.file, line=mark.line)


def mismatches(parts: Mapping[str, Any], model: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, in the model, in the base) of what an arm's model has otherwise."""
    return [
        (f"model.{slot}.{key}", model[slot][key], value)
        for slot, keys in parts.items()
        if isinstance(model.get(slot), Mapping) and isinstance(keys, Mapping)
        for key, value in keys.items()
        if key in model[slot] and model[slot][key] != value
    ]
