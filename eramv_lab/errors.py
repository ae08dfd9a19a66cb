"""Problems a user can mend: what was found, where, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 80
"""What a message lists of what is allowed: a league has hundreds of fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with what a user wrote.

    `file`, `line` (1-based) and `key` (dotted) say where; `allowed` lists what would have been
    taken and `nearest` the closest of them.
    """

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    allowed: tuple[str, ...] = ()
    nearest: str | None = None

    def render(self) -> str:
        """The problem as the user reads it: `file:line: key: message`, then hints."""
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.key, self.message) if part)
        if self.nearest:
            head += f"\n    did you mean: {self.nearest}"
        if self.allowed:
            more = len(self.allowed) - SHOWN
            tail = f" and {more} more" if more > 0 else ""
            head += f"\n    allowed: {', '.join(self.allowed[:SHOWN])}{tail}"
        return head


class LabError(Exception):
    """An error with a clear message and an exit code; the command line shows it bare."""

    exit_code = 1


class UserError(LabError):
    """Bad input: every problem found, reported together. Exit code 2."""

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(message=problems)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__(self.render())

    def render(self) -> str:
        """All problems, numbered where there is more than one."""
        if len(self.problems) == 1:
            return self.problems[0].render()
        lines = [f"{i}. {problem.render()}" for i, problem in enumerate(self.problems, 1)]
        return f"{len(self.problems)} problems\n" + "\n".join(lines)


class InfeasibleError(LabError):
    """Nothing satisfies what was asked (a budget, a match). Exit code 3."""

    exit_code = 3


def nearest(word: str, names: Sequence[str]) -> str | None:
    """The closest of `names` to `word`, or None when nothing is close."""
    found = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return found[0] if found else None
