"""The scored questions of a finished fit, read from its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.report.shape import Key, is_number, is_text, sound_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One scored question."""

    image: str
    type: str
    question: str
    answer: str
    score: float


def _is_score(value: Any) -> bool:
    return value is None or (is_number(value) and 0 <= value <= 1)


NAME = Key(what="a name", sound=is_text)
TEXT = Key(what="text", sound=lambda value: isinstance(value, str))
ANSWER = {
    "key": NAME,
    **{name: TEXT for name in ("image", "type", "question", "answer")},
    "score": Key(what="a number from 0 to 1", sound=_is_score),
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
        )
    return found
