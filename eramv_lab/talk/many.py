"""Many questions answered into a file: in their order, batch by batch, and again where it ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eramv_lab.data.files import locked, progress
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.base import digest, sha256_of
from eramv_lab.recipe.released import PROCESSOR
from eramv_lab.talk.lines import WRITTEN, Line, key_of
from eramv_lab.talk.pictures import read_picture
from eramv_lab.talk.talker import How, Question, Seen, Talker
from eramv_lab.train.files import read_json, write_json, write_jsonl

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a file of questions."""

    out: Path
    answers: int
    errors: int
    cut: int
    """Answers that were cut off at the most new tokens."""
    fresh: int
    """Answered this time; the others were there."""


def answer_file(
    lines: Sequence[Line],
    out: Path,
    talker: Callable[[], Talker],
    how: How,
    *,
    settings: Mapping[str, Any],
    batch: int = 16,
    show: Path | None = None,
) -> Done:
    """Answer `lines` into `out`, in their order; `show` is a folder of pictures, one per line.

    While it goes on, the answers are in `<out>.part`; `out` appears whole. Answers that are in
    either are kept where they were made with the same `settings` (`<out>.settings.json`), and
    lines with an error are asked again. `talker` is called where anything is left to ask.
    Raises UserError for an `out` that holds something else.
    """
    with locked(out):
        answers = _kept(out, {line.key for line in lines}, settings)
        part = _beside(out, "part")
        first = {line.key: line for line in reversed(lines)}
        left = [
            line
            for line in sorted(first.values(), key=lambda line: line.number)
            if line.key not in answers or not _is_drawn(show, line)
        ]
        if left:
            model = talker()
            write_json(_beside(out, "settings.json"), settings)
            write_jsonl(part, answers.values())  # whole lines alone: the last may be torn
            rows = _answers(model, left, how, batch, show)
            with part.open("a", encoding="utf-8") as file:
                try:
                    for row in progress(_written(rows, file), len(left), "questions"):
                        answers[key_of(row)] = row
                except KeyboardInterrupt:
                    print(f"{len(answers)} answers are kept in {part}", file=sys.stderr)
                    raise
        write_jsonl(out, [{**line.row, **_own(answers[line.key])} for line in lines])
        part.unlink(missing_ok=True)
    found = [answers[line.key] for line in lines]
    return Done(
        out=out,
        answers=sum("prediction" in row for row in found),
        errors=sum("error" in row for row in found),
        cut=sum(row.get("finish") == "length" for row in found),
        fresh=len(left),
    )


def fingerprint(place: str) -> str:
    """Tells a model or adapter folder from another in the same place, by all that decides answers.

    That is every byte of weights, configs and processor. A hub id says nothing more than its name.
    """
    folder = Path(place)
    patterns = ("*.safetensors", "*config.json", *PROCESSOR)
    files = {f for pattern in patterns for f in folder.glob(pattern) if f.is_file()}
    return digest({f.name: sha256_of(f) for f in sorted(files)}) if folder.is_dir() else ""


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}.{what}")


def _picture(folder: Path, line: Line) -> Path:
    return folder / f"{line.number:06}.png"


def _is_drawn(folder: Path | None, line: Line) -> bool:
    return folder is None or not line.images or _picture(folder, line).is_file()


def _own(row: Mapping[str, Any]) -> Row:
    return {name: row[name] for name in WRITTEN if name in row}


def _kept(out: Path, asked: set[str], settings: Mapping[str, Any]) -> dict[str, Row]:
    """Answers of an earlier time by what they answer. Raises UserError where they do not fit."""
    files = [file for file in (out, _beside(out, "part")) if file.exists()]
    if not files:
        return {}
    file = _beside(out, "settings.json")
    before = read_json(file)
    if before is None:
        raise UserError(f"{out} is there, and not of `generate`: {file.name} is missing; "
                        "name another --out")  # fmt: skip
    changed = [
        Problem(
            message=f"{out} holds answers made with {name} {before.get(name)!r}, and now it is "
            f"{settings.get(name)!r}; name another --out",
        )
        for name in {**before, **settings}
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise UserError(changed)
    rows = [row for one in files for row in _rows(one)]
    kept = {key_of(row): row for row in rows if "prediction" in row}
    if strange := len(kept.keys() - asked):
        raise UserError(f"{out} holds {strange} answers to what is not asked here; "
                        "name another --out")  # fmt: skip
    return kept


def _rows(file: Path) -> Iterator[Row]:
    """The whole lines of a file that may have been cut off."""
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _written(rows: Iterator[list[Row]], file: Any) -> Iterator[Row]:
    """The rows of each batch, once they are in the file."""
    for group in rows:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in group))
        file.flush()
        yield from group


def _answers(
    talker: Talker, lines: Sequence[Line], how: How, batch: int, show: Path | None
) -> Iterator[list[Row]]:
    """The answered lines, batch by batch.

    An image is seen once for a batch and the next one. Each batch draws by its first line's
    number, so that what goes on later draws the same.
    """
    seen: dict[Path, Seen | str] = {}
    for start in range(0, len(lines), batch):
        group = lines[start : start + batch]
        seen = _see(talker, group, seen)
        rows: list[Row] = []
        asked: list[Question] = []
        places: list[int] = []
        for line in group:
            question, why = _question(talker, line, seen)
            rows.append({**line.row, "error": why} if why else dict(line.row))
            if question is not None:
                places.append(len(rows) - 1)
                asked.append(question)
        drawn = replace(how, seed=how.seed + 1_000_003 * group[0].number)
        said = talker.answer(asked, drawn) if asked else []
        for place, question, answer in zip(places, asked, said, strict=True):
            rows[place] |= answer.plain()
            if show is not None and question.images:
                talker.show(question, answer, _picture(show, group[place]))
        yield rows


def _see(
    talker: Talker, lines: Sequence[Line], before: Mapping[Path, Seen | str]
) -> dict[Path, Seen | str]:
    """Every image of the lines, or why it cannot be seen."""
    found: dict[Path, Seen | str] = {}
    pictures: dict[Path, Any] = {}
    for path in dict.fromkeys(image for line in lines for image in line.images):
        if path in before:
            found[path] = before[path]
            continue
        try:
            pictures[path] = read_picture(path)
        except ValueError as error:
            found[path] = f"image {path}: {error}"
    found.update(zip(pictures, talker.see(list(pictures.values())), strict=True))
    return found


def _question(
    talker: Talker, line: Line, seen: Mapping[Path, Seen | str]
) -> tuple[Question | None, str]:
    """The question of a line; or None, and why it cannot be asked."""
    images: list[Seen] = []
    for path in line.images:
        one = seen[path]
        if isinstance(one, str):
            return None, one
        images.append(one)
    question = Question(text=line.question, images=tuple(images))
    try:
        talker.check(question)
    except UserError as error:
        return None, str(error)
    return question, ""
