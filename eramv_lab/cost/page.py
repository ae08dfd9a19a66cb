"""The price list as it is read: a table in the terminal, or a page of Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eramv_lab.cost.conventions import NAMED
from eramv_lab.cost.roofline import BATCHES, GPUS

if TYPE_CHECKING:
    from eramv_lab.cost.listing import Priced, PriceList


def print_list(prices: PriceList) -> None:
    """A table with a row for each arm, and below it what the columns are."""
    from rich.console import Console
    from rich.table import Table

    first, *columns = [*_columns(prices), *_times(prices)]
    table = Table(first, box=None, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in prices:
        table.add_row(*_cells(row, prices), *_milliseconds(row))
    console = Console()
    console.width = max(console.width, 60 + 11 * len(columns))
    console.print(table)
    for line in _notes(prices):
        print(line)


def page(lists: Sequence[PriceList], command: Sequence[str]) -> str:
    """All lists as Markdown, the dearest system first, below the command that made them."""
    lines = ["# What the systems cost", "", "Made, and to be made anew, by", "", "```sh"]
    lines += [f"python -m eramv_lab {' '.join(_shortened(command))}", "```", ""]
    for prices in lists:
        lines += [f"## {prices.shape or 'At their own sizes'}", ""]
        rows = sorted(prices, key=lambda row: (-row.cost.prefill, row.name))
        lines += _table(_columns(prices), [_cells(row, prices) for row in rows])
        if prices.gpus:
            times = [[row.name, *_milliseconds(row)] for row in rows]
            lines += _table([_columns(prices)[0], *_times(prices)], times)
        lines += [*(f"- {note}" for note in _notes(prices)), ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _shortened(command: Iterable[str]) -> Iterator[str]:
    """The words of a command, `folder/*.yaml` for all of a folder's recipes."""
    words = list(command)
    for folder in {Path(word).parent for word in words if word.endswith(".yaml")}:
        all_of_it = {str(path) for path in folder.glob("*.yaml")}
        if len(all_of_it) > 1 and all_of_it <= set(words):
            first = min(words.index(word) for word in all_of_it)
            words = [word for word in words if word not in all_of_it]
            words.insert(first, f"{folder}/*.yaml")
    return (word if word.endswith("*.yaml") else shlex.quote(word) for word in words)


def _columns(prices: PriceList) -> list[str]:
    names = ["recipe", "tokens", "fine", f"prefill {_unit(prices)[1]}"]
    names += ["of full", "decode GFLOPs", f"training {_unit(prices)[1]}"]
    names += ["parameters M", "new M", "KV MiB"]
    return [*names, prices.convention, "of full"] if prices.convention else names


def _times(prices: PriceList) -> list[str]:
    return [f"{gpu} ms b{batch}" for gpu in prices.gpus for batch in BATCHES]


def _milliseconds(row: Priced) -> list[str]:
    found = row.seconds.values()
    return [f"{seconds * 1e3:.3g}" for by_batch in found for seconds in by_batch["prefill"]]


def _cells(row: Priced, prices: PriceList) -> list[str]:
    cost, unit = row.cost, _unit(prices)[0]
    cells = [row.name, str(cost.visual_tokens), str(cost.fine_tokens)]
    cells += [f"{cost.prefill / unit:.3f}", f"{row.share:.1%}", f"{cost.decode / 1e9:.4g}"]
    cells.append(f"{cost.train / unit:.4g}" if row.arm.train.steps else "-")
    cells += [f"{cost.parameters / 1e6:,.1f}", f"{row.new / 1e6:+,.1f}" if row.new else "0"]
    cells.append(f"{cost.kv_bytes / 2**20:.4g}")
    if row.counted is not None:
        ours, full = row.counted
        cells += [f"{ours / 1e12:.4g} T" if full >= 1e12 else f"{ours / 1e9:.4g} G"]
        cells.append(f"{ours / full:.1%}")
    return cells


def _unit(prices: PriceList) -> tuple[float, str]:
    most = max(row.cost.prefill for row in prices)
    return (1e12, "TFLOPs") if most >= 1e11 else (1e9, "GFLOPs")


def _notes(prices: PriceList) -> Iterator[str]:
    """What the columns are, and what the list does not say by itself."""
    tokens = ", ".join(str(n) for n in sorted({row.cost.text_tokens for row in prices}))
    yield (
        f"One image, {tokens} text tokens, batch 1; 1 MAC is 2 FLOPs, every product of the whole "
        "model. `of full`: of LLaVA on the same tower and language model; `new`: parameters "
        "beside it; `training`: a sample forward and backward, - where nothing is trained."
    )
    if prices.shape is not None:
        dims = next(iter(prices)).arm.spec.dims()
        language, vision = dims.language, dims.vision
        yield (
            f"At {prices.shape}: a language model of {language.layers} layers of "
            f"{language.width}, a tower of {vision.layers} layers of {vision.width} that run, "
            f"{vision.patches} patches."
        )
        towers = [
            f"{name} ({one.system.tower})"
            for name, one in prices.recipes.items()
            if one.system is not None and one.system.tower
        ]
        if towers:
            yield f"Priced on this tower, though their papers have another: {', '.join(towers)}."
    if prices.gpus:
        yield (
            "Times are the least that a prefill can take, each product by its FLOPs or by what it "
            "reads and writes in 16 bits, at batch "
            + ", ".join(map(str, BATCHES))
            + ": "
            + "; ".join(
                f"{GPUS[gpu].name} {GPUS[gpu].flops / 1e12:g} TFLOPS, "
                f"{GPUS[gpu].bandwidth / 1e12:g} TB/s ({GPUS[gpu].source})"
                for gpu in prices.gpus
            )
            + "."
        )
    if prices.convention is not None:
        convention = NAMED[prices.convention]
        said = (
            "every product of the whole model, in FLOPs"
            if convention is None
            else convention.says()
        )
        yield f"{prices.convention}: {said}."
