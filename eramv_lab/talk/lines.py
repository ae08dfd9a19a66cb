"""Many questions as JSON lines: read and looked through before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.talk.pictures import faults

WRITTEN = ("prediction", "finish", "tokens", "error")
"""Keys of an answered line that are not its question's."""
SHOWN = 50
"""Most problems of a file that are told."""
KEYS = '{"image": path, [paths] or null, "question": text, anything else}'


@dataclass(frozen=True, kw_only=True)
class Line:
    """One question of a file."""

    number: int
    """Of its line, from 1."""
    row: Mapping[str, Any]
    """The line as it was written; all of it goes into the answer's line."""
    question: str
    images: tuple[Path, ...]

    @property
    def key(self) -> str:
        """The same for lines that ask the same."""
        return key_of(self.row)


def key_of(row: Mapping[str, Any]) -> str:
    """What was asked in a line, whether it is answered or not."""
    return json.dumps({k: v for k, v in row.items() if k not in WRITTEN}, sort_keys=True)


def read_lines(
    file: Path, images: Path | None, wrong: Callable[[str], Sequence[Problem]] | None = None
) -> list[Line]:
    """The questions of a file, blank lines left out.

    Paths of images are relative to `images`, or to the file. `wrong` gives the problems of a
    question's words. Raises UserError with every line and picture that cannot be used, as far as
    the first bytes of a picture tell.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(Problem(message="there is no such file", file=str(file))) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(message=f"is not UTF-8: {error}", file=str(file))) from None
    if images is not None and not images.is_dir():
        raise UserError(f"--images {images} is no folder")
    below = file.parent if images is None else images
    problems: list[Problem] = []
    lines: list[Line] = []
    for number, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        found = _line(written, number, below)
        if isinstance(found, Line):
            lines.append(found)
        else:
            problems += [Problem(message=why, file=str(file), line=number) for why in found]
    bad = faults(image for line in lines for image in line.images)
    for line in lines:
        problems += [
            Problem(message=f"image {image}: {bad[image]}", file=str(file), line=line.number)
            for image in line.images
            if image in bad
        ]
        for problem in wrong(line.question) if wrong else ():
            problems.append(
                Problem(
                    message=problem.message,
                    file=str(file),
                    line=line.number,
                    nearest=problem.nearest,
                    allowed=problem.allowed if not problems else (),
                )
            )
    if not lines and not problems:
        problems.append(Problem(message=f"holds no question; a line is {KEYS}", file=str(file)))
    if problems:
        problems.sort(key=lambda problem: problem.line or 0)
        more = len(problems) - SHOWN
        if more > 0:
            problems[SHOWN:] = [Problem(message=f"... and {more} more problems", file=str(file))]
        raise UserError(problems)
    return lines


def _line(written: str, number: int, below: Path) -> Line | list[str]:
    """The question of a line, or what is wrong with it."""
    try:
        row = json.loads(written)
    except (ValueError, RecursionError) as error:
        return [f"is no JSON: {error}"]
    if not isinstance(row, dict):
        return [f"should be {KEYS}, found {type(row).__name__}"]
    wrong = list(_wrong(row))
    if wrong:
        return wrong
    image = row.get("image")
    names = [] if image is None else [image] if isinstance(image, str) else image
    paths = tuple(below / name for name in names)
    return Line(number=number, row=row, question=row["question"], images=paths)


def _wrong(row: Mapping[str, Any]) -> Iterator[str]:
    question, image = row.get("question"), row.get("image")
    if not isinstance(question, str) or not question.strip():
        yield f"'question' should be a text, found {json.dumps(question)}"
    names = [image] if isinstance(image, str) else image
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    ):
        yield f"'image' should be a path, a list of paths, or null, found {json.dumps(image)}"
    for name in WRITTEN:
        if name in row:
            yield f"'{name}' is what an answer writes into its line; give it another name"
