"""The table of a league: a block for each budget, its systems by accuracy, each with its price."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from eramv_lab.recipe.match import TOLERANCE
from eramv_lab.recipe.system import NOTHING
from eramv_lab.report.captions import HEADS, cells_of
from eramv_lab.report.comparison import Comparison
from eramv_lab.report.league import Group, Standing, Standings
from eramv_lab.report.numbers import share
from eramv_lab.report.paired import Difference
from eramv_lab.report.table import (
    Column,
    fold,
    interval,
    markdown_lines,
    mean,
    measured_column,
    print_blocks,
    tokens,
)

FREE = "*"
"""Behind the name of a training-free system."""
DEARER = "†"
"""Behind a price above the budget."""


def show(comparison: Comparison, league: Standings, console: Console) -> None:
    """Print the block of each budget, and which systems could not be brought to one."""
    for group, columns in _blocks(comparison, league):
        console.print(Text(group.title(league.name_of(league.full)), style="bold"))
        names, *rest = columns
        dim = [line.arm.accuracy is None for line in group.lines]
        print_blocks(console, fold(names, [rest], console.width), dim)
    for note in _notes(league):
        console.print(Text(f"· {note}"))


def markdown_lines_of(comparison: Comparison, league: Standings) -> list[str]:
    """The same as Markdown."""
    lines: list[str] = []
    for group, columns in _blocks(comparison, league):
        title = group.title(league.name_of(league.full))
        lines += [f"## {title[0].upper()}{title[1:]}", "", *markdown_lines(columns), ""]
    return lines + [f"- {note}" for note in _notes(league)]


def _notes(league: Standings) -> list[str]:
    full = league.name_of(league.full)
    notes = [f"{arm}: not reached: {reason}" for arm, reason in league.unreached.items()]
    if any(line.trains == NOTHING for line in league.lines):
        notes.append(
            f"{FREE} training-free: applied to the trained {full} of the same seed, whose training "
            "stands behind the +."
        )
    if league.null and any(line.to_null for line in league.lines):
        name = league.name_of(league.null[0])
        notes.append(
            f"Each system is compared with {name} at the least of that one's prices that is not "
            "below its own, or at the dearest: the share is said."
        )
    if any(_dearer(line) for line in league.lines):
        notes.append(
            f"{DEARER} the knob's steps are coarse: dearer than the budget by more than 5 %."
        )
    notes.append("An interval holds 95 % by itself; none is corrected for the number of systems.")
    if any("latency_ms" in line.arm.cost for line in league.lines):
        notes.append("Latency is measured beside the other fits: good to a factor, no more.")
    return notes


def _blocks(comparison: Comparison, league: Standings) -> list[tuple[Group, list[Column]]]:
    """Each budget with its columns; a unit is the same in all of them."""
    columns = _columns(comparison, league)
    found: list[tuple[Group, list[Column]]] = []
    first = 0
    for group in league.groups:
        last = first + len(group.lines)
        found.append((group, [Column(c.head, c.cells[first:last], c.number) for c in columns]))
        first = last
    return found


def _columns(comparison: Comparison, league: Standings) -> list[Column]:
    lines = league.lines

    def column(head: str, cell: Callable[[Standing], str], number: bool = True) -> Column:
        return Column(head, [cell(line) for line in lines], number)

    def scaled(key: str, short: str) -> Column:
        found = measured_column(key, [line.arm.cost.get(key) for line in lines])
        return Column(f"{short} {found.head.rpartition(' ')[2]}", found.cells)

    columns = [
        column("system", _name, False),
        column("accuracy", lambda line: mean(line.arm.accuracy)),
        column("95 % interval", lambda line: interval(line.arm.accuracy)),
        column(f"vs {league.name_of(league.full)}", lambda line: _paired(line.arm.difference)),
    ]
    if any(line.to_null for line in lines):
        columns.append(column(f"vs {league.name_of(league.null[0])}", _to_null))
    for name in comparison.also:
        columns.append(column(name, lambda line, n=name: mean(line.arm.also.get(n))))
    columns += _captions(lines, league)
    price = [
        column("prefill", _share),
        scaled("prefill_tflops", "prefill"),
        column("tokens", lambda line: tokens(line.arm.cost)),
        _training(scaled("train_pflops", "train"), lines),
        scaled("kv_mib", "KV"),
        scaled("parameters", "params"),
    ]
    measured = [
        scaled("latency_ms", "latency"),
        scaled("peak_mib", "peak"),
        measured_column("gate", [line.arm.cost.get("gate") for line in lines]),
    ]
    return [*columns, *price, *(c for c in measured if any(cell != "–" for cell in c.cells))]


def _captions(lines: Sequence[Standing], league: Standings) -> list[Column]:
    """Scores of captions, where there are any: with intervals, against the full and the null."""
    scores = [line.arm.captions for line in lines]
    columns: list[Column] = []
    for name, head in HEADS.items():
        if not any(name in told for told in scores):
            continue
        told = [told.get(name) for told in scores]
        each = {
            head: [score and score.estimate for score in told],
            f"{head} vs {league.name_of(league.full)}": [s and s.difference for s in told],
        }
        if league.null:
            null = f"{head} vs {league.name_of(league.null[0])}"
            each[null] = [line.captions_to_null.get(name) for line in lines]
        for title, estimates in each.items():
            cells = zip(*cells_of(name, estimates, " vs " in title), strict=True)
            columns.append(Column(title, [f"{m} ({i})" if m != "–" else "–" for m, i in cells]))
    return columns


def _training(column: Column, lines: Sequence[Standing]) -> Column:
    """What is learnt from, with that of the full model behind what stands on it."""
    full = next((c for c, line in zip(column.cells, lines, strict=True) if line.full), "–")
    pairs = zip(column.cells, lines, strict=True)
    return Column(
        column.head,
        [f"{cell} + {full}" if line.trains == NOTHING else cell for cell, line in pairs],
    )


def _name(line: Standing) -> str:
    """The system, told apart where it learns nothing, is a null line or lacks seeds."""
    name = f"{line.name} {FREE}" if line.trains == NOTHING else line.name
    seeds = f"{len(line.arm.seeds)} of {len(line.arm.seeds) + len(line.arm.missing)} seeds"
    notes = ["null line"] * line.null + [seeds] * bool(line.arm.missing)
    return f"{name} ({', '.join(notes)})" if notes else name


def _to_null(line: Standing) -> str:
    at = f" at {line.null_share:.0%}".replace("%", " %") if line.null_share else ""
    return _paired(line.to_null) and f"{_paired(line.to_null)}{at}"


def _paired(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{share(difference.estimate.mean, True)} ({interval(difference.estimate, True)})"


def _share(line: Standing) -> str:
    if line.share is None:
        return "–"
    return f"{line.share:.1%}".replace("%", " %") + f" {DEARER}" * _dearer(line)


def _dearer(line: Standing) -> bool:
    """Whether it costs more than its budget by more than passes for equal."""
    return bool(line.budget and line.share and line.share > line.budget * (1 + TOLERANCE))
