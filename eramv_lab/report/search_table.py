"""The report of a search in text: for the terminal, as Markdown, and every trial as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.text import Text

from eramv_lab.recipe.schema import METRICS
from eramv_lab.report import search_words as words
from eramv_lab.report import table
from eramv_lab.report.frontier import frontier
from eramv_lab.report.numbers import name_of, share
from eramv_lab.report.search import Search, Trial, said
from eramv_lab.report.shape import is_number
from eramv_lab.report.table import Column

BEST = 10
"""Trials that the report lists as the best."""
PRICES = ("prefill_tflops", "train_pflops", "parameters", "kv_mib", "latency_ms", "seconds")


@dataclass(frozen=True, slots=True)
class Block:
    """One table of the report."""

    title: str
    names: Column
    groups: list[list[Column]]


def tables(search: Search) -> list[Block]:
    """The best trials and the frontier; nothing where no trial has finished."""
    ranked, edge = search.ranked(), frontier(search)
    up, across = search.axes
    count = f"The best {min(BEST, len(ranked))} of {len(ranked)} finished trials"
    if len(ranked) == 1:
        count = "The one finished trial"
    listed = [(f"{count}, by {name_of(up.metric)}", ranked[:BEST])]
    if edge:
        listed.append(
            (f"The frontier: {name_of(up.metric)} against {name_of(across.metric)}", edge)
        )
    return [
        Block(title, Column("trial", [t.label for t in trials], False), _columns(search, trials))
        for title, trials in listed
        if trials
    ]


def show(search: Search, file: TextIO | None = None, width: int | None = None) -> None:
    """Print the report to `file` (standard output)."""
    console = table.console_for(file, width)
    table.print_title(console, search.study, search.question)
    for sentence in words.findings(search):
        console.print(Text(sentence))
    console.print()
    for block in tables(search):
        console.print(Text(block.title, style="bold"))
        table.print_blocks(console, table.fold(block.names, block.groups, console.width))
    for sentence in [*words.failures(search), *words.notes(search)]:
        console.print(Text(f"· {sentence}", style="dim"))


def markdown(search: Search) -> str:
    """The report as Markdown."""
    lines = [f"# {_one_line(search.study)}", ""]
    if search.question:
        lines += [_one_line(search.question), ""]
    lines += [f"- {sentence}" for sentence in words.findings(search)]
    for block in tables(search):
        columns = [block.names, *(column for group in block.groups for column in group)]
        lines += ["", f"## {block.title}", "", *table.markdown_lines(columns)]
    lines += ["", "## How it was searched", ""]
    lines += [f"- {sentence}" for sentence in [*words.failures(search), *words.notes(search)]]
    return "\n".join([*lines, ""])


def as_csv(search: Search) -> str:
    """Every trial with every number unrounded; each parameter is a column by its full key."""
    edge = {trial.number for trial in frontier(search)}
    rows: list[dict[str, object]] = []
    for trial in search.trials:
        row: dict[str, object] = {
            "number": trial.number,
            "label": trial.label,
            "state": trial.state,
            "given": trial.given,
            "frontier": int(trial.number in edge),
        }
        values = [*trial.values, None, None]
        row |= {f"goal_{goal.metric}": values[i] for i, goal in enumerate(search.goals)}
        row["step"] = trial.step
        for metric in ("accuracy", "accuracy_low", "accuracy_high", "n", *METRICS):
            row[metric] = trial.row.get(metric)
        start, length = trial.band or (None, 0 if trial.plain else None)
        row |= {"band_start": start, "band_length": length, "anchors": trial.anchors}
        row |= {"plain": int(trial.plain), "resumed": trial.resumed}
        row |= {"folder": trial.folder, "hash": trial.hash, "error": trial.error}
        for key in search.param_names:
            value = trial.params.get(key)
            cell = value if value is None or is_number(value) else said(value)
            row[f"params.{key}" if key in row else key] = cell
        rows.append(row)
    return table.csv_text(rows)


def _columns(search: Search, trials: Sequence[Trial]) -> list[list[Column]]:
    """What was set, the goal with its interval, and the prices that are known."""
    up, across = search.axes

    def known(metric: str) -> list[float | None]:
        return [search.value(trial, metric) for trial in trials]

    def measured(metric: str) -> Column:
        if metric in words.SHARES:
            return Column(metric, [share(v) for v in known(metric)])
        return table.measured_column(metric, known(metric))

    given = Column("given", [t.given or "–" for t in trials], False)
    settings = [
        Column(name, [said(t.params[key]) if key in t.params else "–" for t in trials], False)
        for key, name in search.param_names.items()
    ]
    goal = [measured(up.metric), Column("95 % interval", [_interval(t) for t in trials])]
    if up.metric != "accuracy":
        goal.insert(1, measured("accuracy"))
    goal.append(measured(across.metric))
    price = [Column("visual tokens", [table.tokens(t.row) for t in trials])]
    price += [measured(metric) for metric in PRICES if metric not in (across.metric, up.metric)]
    return [_told(goal), [*_told([given]), *settings], _told(price)]


def _told(columns: list[Column]) -> list[Column]:
    """Those in which anything is known."""
    return [column for column in columns if any(cell != "–" for cell in column.cells)]


def _interval(trial: Trial) -> str:
    low, high = trial.row.get("accuracy_low"), trial.row.get("accuracy_high")
    return "–" if low is None or high is None else f"{share(low)} to {share(high)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
