"""LLaVA's training JSON to conversations: a question and its answers, or the reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from eramv_lab.data.formats.conversation import Conversation, Unusable
from eramv_lab.data.shards import damaged

IMAGE = "<image>"
MARK = re.compile(f"{IMAGE}\n|\n{IMAGE}|{IMAGE}")
"""The mark and the newline beside it."""
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
TURNS = ("conversations", "messages")
"""Keys of a sample that may hold its turns."""


def read_list(file: Path, content: bytes) -> list[Any]:
    """The entries of a JSON list, or of a file with a JSON value in each line.

    A line that is no JSON becomes None. Raises UserError where the file is neither, or where no
    entry of it looks like a sample.
    """
    try:
        text = content.decode("utf-8-sig")
        entries = json.loads(text) if text.lstrip()[:1] == "[" else list(_lines(text))
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"neither a JSON list nor JSON lines: {error}") from None
    samples = [entry for entry in entries if isinstance(entry, dict)]
    if not any(key in entry for entry in samples for key in TURNS):
        raise damaged(file, f"no list of samples: {_seen(entries)}, and none has 'conversations'")
    return entries


def parse(plain: Any) -> Conversation:
    """One entry as a conversation. Raises Unusable with the reason where it is none."""
    if not isinstance(plain, dict):
        raise Unusable("not a JSON object")
    image = _image(plain.get("image"))
    turns = _turns(plain)
    marks = [question.count(IMAGE) for question, _ in turns]
    if sum(marks) > 1:
        raise Unusable(f"{IMAGE} stands more than once")
    if any(marks[1:]):
        raise Unusable(f"{IMAGE} in a later turn")
    if any(marks) and image is None:
        raise Unusable(f"{IMAGE} and no image")
    first = MARK.sub("", turns[0][0], count=1).strip()
    turns = [(first, turns[0][1]), *turns[1:]]
    if not all(question for question, _ in turns[image is not None :]):
        raise Unusable("an empty question")
    id_, kind = plain.get("id"), plain.get("type") or plain.get("category")
    id_ = str(id_) if isinstance(id_, (str, int)) and not isinstance(id_, bool) else ""
    kind = " ".join(kind.split()) if isinstance(kind, str) else ""
    kind = kind if kind and kind.isprintable() else _type(image)
    _check_text(id_, image or "", kind, *(text for turn in turns for text in turn))
    return Conversation(id=id_, image=image, turns=tuple(turns), type=kind)


def id_of(plain: Any) -> str:
    """What an entry calls itself, as far as it can be told."""
    found = plain.get("id", "") if isinstance(plain, dict) else ""
    return _printable(found)


def file_of(plain: Any) -> str:
    """The image that an entry names, as far as it can be told."""
    found = plain.get("image", "") if isinstance(plain, dict) else ""
    return _printable(found)


def _printable(found: Any) -> str:
    text = found if isinstance(found, str) else "" if found is None else json.dumps(found)
    return text.encode(errors="replace").decode()[:500]


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            if number == 0:  # then it is no file of JSON lines
                raise
            yield None


def _seen(entries: Sequence[Any]) -> str:
    if not entries:
        return "it is empty"
    first = entries[0]
    if isinstance(first, Mapping):
        keys = ", ".join(map(repr, list(first)[:8])) or "none"
        return f"{len(entries)} entries, the first with the keys {keys}"
    return f"{len(entries)} entries, the first is a {type(first).__name__}"


def _image(found: Any) -> str | None:
    if isinstance(found, list):
        if len(found) > 1:
            raise Unusable(f"several images: {len(found)}")
        found = found[0] if found else None
    if found is None or found == "":
        return None
    if not isinstance(found, str):
        raise Unusable("image is not a path")
    return found


def _turns(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = next((plain[key] for key in TURNS if key in plain), None)
    if not isinstance(said, list) or not said:
        raise Unusable("no turns")
    texts: list[str] = []
    for number, turn in enumerate(said):
        role, text = _turn(turn)
        if role != ("human", "gpt")[number % 2]:
            raise Unusable("turns out of order: a human asks first, then they alternate")
        texts.append(text)
    turns = list(zip(texts[::2], texts[1::2], strict=False))  # a last question without its answer
    if not turns:
        raise Unusable("no answer")
    if not all(answer for _, answer in turns):
        raise Unusable("an empty answer")
    if any(IMAGE in answer for _, answer in turns):
        raise Unusable(f"{IMAGE} in an answer")
    return turns


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise Unusable("a turn is not a JSON object")
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(text, str):
        raise Unusable("a turn without text")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Unusable(f"a turn of an unknown role: {role!r}"[:100])
    return ROLES[role.lower()], text.strip()


def _type(image: str | None) -> str:
    if image is None:
        return "text"
    folders = PurePosixPath(image).parts[:-1]
    # numbered folders only spread the files
    return folders[0] if folders and not folders[0].isdigit() else "image"


def _check_text(*texts: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise Unusable("text that is not Unicode: half a surrogate pair") from None
