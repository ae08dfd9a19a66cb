"""The scored questions of a finished fit, read from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.report.shape import Key, is_number, is_object, is_text, sound_object

MOST_CIDER = 10 + 1e-6
"""CIDEr-D of a caption that is its only reference, rounding included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One scored question."""

    image: str
    type: str
    question: str
    answer: str
    score: float
    caption: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of a caption: `cider` (0 to 10) and, where it tells facts, `facts` (F1)."""


def _is_score(value: Any) -> bool:
    return value is None or (is_number(value) and 0 <= value <= 1)


def _is_cider(value: Any) -> bool:
    return is_number(value) and 0 <= value <= MOST_CIDER


NAME = Key(what="a name", sound=is_text)
TEXT = Key(what="text", sound=lambda value: isinstance(value, str))
ANSWER = {
    "key": NAME,
    **{name: TEXT for name in ("image", "type", "question", "answer")},
    "score": Key(what="a number from 0 to 1", sound=_is_score),
    "caption": Key(what="scores of a caption", sound=is_object, needed=False),
    "caption.cider": Key(what="a number from 0 to 10", sound=_is_cider, needed=False),
    "caption.facts": Key(what="scores of facts", sound=is_object, needed=False),
    "caption.facts.f1": Key(what="a number from 0 to 1", sound=_is_score, needed=False),
}
"""What a line of predictions.jsonl must hold."""


def read_answers(file: Path) -> dict[str, Answer]:
    """Every question of the evaluation by key; an unscored one (null) counts as wrong.

    Raises LabError where the file is missing, broken, or holds a key twice, naming the line.
    """
    try:
        # not splitlines(): an answer may hold a line separator such as U+2028
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, ValueError) as error:
        raise LabError(f"{file} cannot be read: {error}") from error
    found: dict[str, Answer] = {}
    for number, line in enumerate(lines, 1):
        item = sound_object(line, ANSWER, "a scored question", f"{file}:{number}")
        key = item["key"]
        if key in found:
            raise LabError(f"{file}:{number}: the key {key!r} stands there twice")
        found[key] = Answer(
            image=item["image"],
            type=item["type"],
            question=item["question"],
            answer=item["answer"],
            score=float(item["score"] or 0),
            caption=_caption(item.get("caption") or {}),
        )
    return found


def _caption(told: Mapping[str, Any]) -> dict[str, float]:
    found = {"cider": told.get("cider"), "facts": (told.get("facts") or {}).get("f1")}
    return {name: float(value) for name, value in found.items() if value is not None}
