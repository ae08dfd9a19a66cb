"""The table of a comparison: one line per arm, folded into blocks as wide as the page."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.report.captions import caption_columns, caption_numbers
from eramv_lab.report.comparison import ArmResult, Comparison
from eramv_lab.report.numbers import digits, heading, probability, share

WIDTH_OF_A_FILE = 150
"""Columns of the page where the output is piped and says nothing of its width."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, a cell per arm, and whether it is read as numbers."""

    head: str
    cells: list[str]
    number: bool = True

    @property
    def width(self) -> int:
        """Columns of the page that it takes, with the gap before it."""
        return 2 + max(cell_len(text) for text in [self.head, *self.cells])


def groups(comparison: Comparison) -> list[list[Column]]:
    """The columns after the arm's name: what differs, accuracy, by type, price, measured."""
    arms = comparison.arms
    keys = dict.fromkeys(key for arm in arms for key in arm.changed)

    def column(head: str, cell: Callable[[ArmResult], str], number: bool = True) -> Column:
        return Column(head, [cell(arm) for arm in arms], number)

    def scaled(key: str) -> Column:
        return measured_column(key, [arm.cost.get(key) for arm in arms])

    accuracy = [
        column("accuracy", lambda arm: mean(arm.accuracy)),
        column("95 % interval", lambda arm: interval(arm.accuracy)),
        column("seeds", _seeds),
    ]
    if any(arm.difference for arm in arms):
        accuracy += [
            column(
                f"vs {comparison.reference}",
                lambda arm: share(arm.difference.estimate.mean, True) if arm.difference else "",
            ),
            column(
                "95 % interval",
                lambda arm: interval(arm.difference.estimate, True) if arm.difference else "",
            ),
            column("p", lambda arm: probability(arm.difference.p_holm) if arm.difference else ""),
        ]
    also: list[Column] = []
    for name in comparison.also:
        also.append(column(f"accuracy {name}", lambda arm, n=name: mean(arm.also.get(n))))
        also.append(column("95 % interval", lambda arm, n=name: interval(arm.also.get(n))))
    scores = [arm.captions for arm in arms]
    captions = [Column(*told) for told in caption_columns(scores, comparison.reference)]
    price = [
        scaled("prefill_tflops"),
        column(f"× {comparison.reference}", _times(arms[0])),
        scaled("train_pflops"),
        scaled("parameters"),
        *([column("trainable", _trainable)] if comparison.learn_apart else []),
        column("visual tokens", lambda arm: tokens(arm.cost)),
        scaled("kv_mib"),
    ]
    measured = [
        scaled("latency_ms"),
        scaled("peak_mib"),
        scaled("seconds"),
        scaled("gate"),
    ]
    return [
        [column(key, lambda arm, key=key: arm.changed.get(key, "–"), False) for key in keys],
        accuracy,
        captions,
        also,
        [column(kind, _of_type(kind)) for kind in comparison.types],
        price,
        [c for c in measured if any(cell != "–" for cell in c.cells)],
    ]


def measured_column(metric: str, values: Sequence[float | None]) -> Column:
    """A metric of the row, in the unit that suits the column."""
    head, times = heading(metric, values)
    return Column(head, [digits(None if v is None else v * times) for v in values])


def blocks(comparison: Comparison, width: int) -> list[list[Column]]:
    """The columns folded into blocks of at most `width`; each starts with the arm's name."""
    return fold(_names(comparison), groups(comparison), width)


def fold(names: Column, groups: Sequence[Sequence[Column]], width: int) -> list[list[Column]]:
    """`groups` of columns in blocks of at most `width`, each of which starts with `names`.

    Groups stay whole where they fit; a column is never cut.
    """
    folded: list[list[Column]] = [[names]]

    def room(columns: Sequence[Column]) -> bool:
        return sum(c.width for c in [*folded[-1], *columns]) <= width

    for group in groups:
        if group and not room(group) and len(folded[-1]) > 1:
            folded.append([names])
        for column in group:
            if not room([column]) and len(folded[-1]) > 1:
                folded.append([names])
            folded[-1].append(column)
    return folded


def show(comparison: Comparison, file: TextIO | None = None, width: int | None = None) -> None:
    """Print title, table, expectations and notes to `file` (standard output)."""
    console = console_for(file, width)
    print_title(console, comparison.study, comparison.question)
    if comparison.league is not None:
        from eramv_lab.report import league_table

        league_table.show(comparison, comparison.league, console)
    else:
        dim = [arm.accuracy is None for arm in comparison.arms]
        print_blocks(console, blocks(comparison, console.width), dim)
    styles = {True: "green", False: "bold red", None: "yellow"}
    for expectation in comparison.expectations:
        console.print(Text(expectation.render(), style=styles[expectation.met]))
    for note in comparison.notes:
        console.print(Text(f"· {note}", style="dim"))


def console_for(file: TextIO | None, width: int | None) -> Console:
    """Where a table is printed, as wide as the page."""
    console = Console(file=file, width=width, highlight=False, soft_wrap=False)
    if width is None and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_A_FILE
    return console


def print_title(console: Console, study: str, question: str) -> None:
    """The study's name and what it asks."""
    title = Text(study, style="bold")
    if question:
        title.append(f"   {question}", style="not bold")
    console.print(title)


def print_blocks(
    console: Console, blocks: Sequence[Sequence[Column]], dim: Sequence[bool] = ()
) -> None:
    """Each block as a table; `dim` says which lines are faint."""
    for block in blocks:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in block:
            table.add_column(
                Text(column.head),
                justify="right" if column.number else "left",
                no_wrap=True,
                min_width=column.width - 2,
            )
        for i in range(len(block[0].cells)):
            cells = [Text(column.cells[i]) for column in block]
            table.add_row(*cells, style="dim" if any(dim[i : i + 1]) else "")
        console.print(table, crop=False)
        console.print()


def markdown(comparison: Comparison) -> str:
    """The table as Markdown, all columns side by side, with title and notes."""
    if comparison.league is not None:
        from eramv_lab.report import league_table

        lines = league_table.markdown_lines_of(comparison, comparison.league)
    else:
        columns = [_names(comparison), *(c for group in groups(comparison) for c in group)]
        lines = markdown_lines(columns)
    notes = [f"- {e.render()}" for e in comparison.expectations]
    notes += [f"- {note}" for note in comparison.notes]
    head = [f"# {comparison.study}", "", comparison.question, ""]
    return "\n".join([*(head if comparison.question else head[:2]), *lines, "", *notes, ""])


def markdown_lines(columns: Sequence[Column]) -> list[str]:
    """The columns side by side as a Markdown table."""
    rows = [
        [c.head for c in columns],
        ["--:" if c.number else "---" for c in columns],
        *zip(*(c.cells for c in columns), strict=True),
    ]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def as_csv(comparison: Comparison) -> str:
    """One line per arm with unrounded numbers; empty where there is none."""
    rows: list[dict[str, object]] = []
    lines = comparison.league.lines if comparison.league else []
    standing = {line.arm.name: line for line in lines}
    for arm in comparison.arms:
        row: dict[str, object] = {"arm": arm.name, **arm.changed}
        row["seeds"] = " ".join(map(str, arm.seeds))
        row["missing"] = " ".join(map(str, arm.missing))
        if arm.accuracy:
            row |= {"accuracy": arm.accuracy.mean, "accuracy_low": arm.accuracy.low}
            row |= {"accuracy_high": arm.accuracy.high, "n": arm.accuracy.n}
        row |= {f"accuracy_{kind}": estimate.mean for kind, estimate in arm.per_type.items()}
        for name, estimate in arm.also.items():
            row |= {f"accuracy_{name}": estimate.mean, f"accuracy_{name}_low": estimate.low}
            row |= {f"accuracy_{name}_high": estimate.high, f"n_{name}": estimate.n}
        row |= caption_numbers(arm.captions)
        if arm.difference:
            d = arm.difference
            row |= {"difference": d.estimate.mean, "difference_low": d.estimate.low}
            row |= {"difference_high": d.estimate.high, "p": d.p, "p_holm": d.p_holm}
        if line := standing.get(arm.name):
            row |= {"system": line.system, "budget": line.budget, "prefill_share": line.share}
            if d := line.to_null:
                row |= {"null": d.to, "over_null": d.estimate.mean}
                row |= {"over_null_low": d.estimate.low, "over_null_high": d.estimate.high}
        rows.append(row | arm.cost)
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """One line per row, a column for every key that any of them has."""
    text = io.StringIO()
    fields = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tokens(row: Mapping[str, float]) -> str:
    """Visual tokens in the sequence, and the fine ones beside it."""
    visual, fine = row.get("visual_tokens"), row.get("fine_tokens")
    if visual is None:
        return "–"
    return f"{visual:g} + {fine:g} fine" if fine else f"{visual:g}"


def _names(comparison: Comparison) -> Column:
    return Column("arm", [arm.name for arm in comparison.arms], number=False)


def interval(estimate: object, signed: bool = False) -> str:
    """The ends of an interval, in words."""
    low, high = getattr(estimate, "low", None), getattr(estimate, "high", None)
    return "–" if low is None else f"{share(low, signed)} to {share(high, signed)}"


def mean(estimate: Estimate | None) -> str:
    """A mean to three places; a dash for none."""
    return share(estimate.mean if estimate else None)


def _trainable(arm: ArmResult) -> str:
    """The share of the parameters that learns; without a step nothing does."""
    learning, all_of_them = arm.cost.get("trainable"), arm.cost.get("parameters")
    learning = 0 if arm.cost.get("train_pflops") == 0 else learning
    return "–" if learning is None or not all_of_them else f"{learning / all_of_them:.1%}"


def _seeds(arm: ArmResult) -> str:
    wanted = len(arm.seeds) + len(arm.missing)
    return f"{len(arm.seeds)} of {wanted}" if arm.missing else str(len(arm.seeds))


def _of_type(kind: str) -> Callable[[ArmResult], str]:
    return lambda arm: share(arm.per_type[kind].mean) if kind in arm.per_type else "–"


def _times(first: ArmResult) -> Callable[[ArmResult], str]:
    base = first.cost.get("prefill_tflops")

    def cell(arm: ArmResult) -> str:
        own = arm.cost.get("prefill_tflops")
        return f"{own / base:.2f}" if own is not None and base else "–"

    return cell
