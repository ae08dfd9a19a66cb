"""What every format is read into: questions and answers in turn, about at most one image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One sample."""

    id: str
    """As its file says it; '' where that says none."""
    image: str | None
    """Path below the image folder; none for text alone."""
    turns: tuple[tuple[str, str], ...]
    """Question and answer of each turn, without the mark of the image."""
    type: str
    """What kind of question it is."""


class Unusable(ValueError):
    """A sample that is left out, and why; the words before a colon are the kind of reason."""
