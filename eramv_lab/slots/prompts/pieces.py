"""What a conversation is made of: pieces of text, of which some are learnt, and its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """Whose words a piece holds."""

    FRAME = "frame"
    """The template's."""
    QUESTION = "question"
    """The user's: whatever looks like a special token in it is text."""
    IMAGE = "image"
    """One image, no text of its own."""
    ANSWER = "answer"
    """What is to be learnt; as a question, text alone."""
    TAIL = "tail"
    """The template's words around an answer that are learnt with it."""
    EOS = "eos"
    """The language model's end mark, learnt."""


LEARNT = (Kind.ANSWER, Kind.TAIL, Kind.EOS)


class Piece(NamedTuple):
    """A stretch of a conversation."""

    kind: Kind
    text: str = ""


class Frame(NamedTuple):
    """The template's words around one turn."""

    before: str = ""
    """In front of the question."""
    between: str = ""
    """Between question and answer; a prompt ends with it."""
    lead: str = " "
    """In front of the answer and learnt with it: the blank that is part of its first token."""
    end: str = ""
    """Behind the answer and learnt with it."""
    eos: bool = True
    """Whether the end mark follows `end`."""


Turn = tuple[str, str]
"""Question and answer."""
Frames = Callable[[int], Sequence[Frame]]
"""The frames of a conversation of so many turns: a template may write the last one otherwise."""


def assemble(
    turns: Sequence[Turn],
    frames: Sequence[Frame],
    first: Sequence[Piece],
    *,
    asking: bool = False,
) -> list[Piece]:
    """The pieces of a conversation whose first question, its image with it, is `first`.

    `asking`: up to where the last answer begins. Blanks around questions and answers are left out.
    """
    pieces: list[Piece] = []
    for number, ((question, answer), frame) in enumerate(zip(turns, frames, strict=True)):
        pieces.append(Piece(Kind.FRAME, frame.before))
        pieces += [Piece(Kind.QUESTION, question.strip())] if number else first
        pieces.append(Piece(Kind.FRAME, frame.between))
        if asking and number == len(turns) - 1:
            break
        pieces += [Piece(Kind.TAIL, frame.lead), Piece(Kind.ANSWER, answer.strip())]
        pieces.append(Piece(Kind.TAIL, frame.end))
        if frame.eos:
            pieces.append(Piece(Kind.EOS))
    return [piece for piece in pieces if piece.text or piece.kind in (Kind.IMAGE, Kind.EOS)]
