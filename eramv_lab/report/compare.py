"""`compare`: read finished fits and print, plot or hand on what tells their arms apart."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from eramv_lab.errors import Problem, UserError
from eramv_lab.report import search_plain, search_table, table
from eramv_lab.report.comparison import Comparison, compare
from eramv_lab.report.plain import to_plain
from eramv_lab.report.runs import find, find_study
from eramv_lab.report.search import Search
from eramv_lab.report.search_file import SEARCH_FILE, read_search

PICTURES = (".png", ".pdf", ".svg")
"""What the name of a plot may end in."""


def compare_study(study_dir: Path) -> Comparison:
    """The comparison of a study's arms, from its folder alone."""
    return compare(find_study(study_dir))


def main(names: Sequence[str], runs: Path, json: bool = False, plot: Path | None = None) -> int:
    """Print the comparison of studies or run folders called `names`; 0, or an error is raised.

    A single name that is a search prints the search first, and its arms where any has finished.
    `json` prints plain data instead of the table; `plot` also draws accuracy against prefill FLOPs
    into that file (png, pdf, svg). Raises UserError for a plot of another kind before anything is
    read.
    """
    if plot is not None and plot.suffix.lower() not in PICTURES:
        message = f"a plot is a picture by its ending, found {str(plot)!r}"
        raise UserError(Problem(message=message, key="--plot", allowed=PICTURES))
    search, comparison = _read(names, runs)
    if json:
        plain = {} if search is None else {"search": search_plain.to_plain(search)}
        plain |= {} if comparison is None else to_plain(comparison)
        print(json_format.dumps(plain, indent=1, allow_nan=False))
    else:
        if search is not None:
            search_table.show(search)
        if comparison is not None:
            print(end="" if search is None else "\n")
            table.show(comparison)
    if plot is not None:
        _draw(search, comparison, plot)
        print(f"plot: {plot}", file=sys.stderr)
    return 0


def _read(names: Sequence[str], runs: Path) -> tuple[Search | None, Comparison | None]:
    """The search that a single name stands for, and the arms: at least one of the two."""
    searches = {name: folder for name in names if (folder := _folder_of_search(name, runs))}
    if len(names) > 1 or not searches:
        for name, folder in searches.items():
            if not (folder / "study.json").is_file():
                raise UserError(f"{name} is a search without arms yet: compare it alone")
        return None, compare(find(names, runs))
    folder = searches[names[0]]
    search = read_search(folder)
    if not (folder / "study.json").is_file():
        return search, None
    found = find_study(folder)
    return search, compare(found) if any(arm.runs for arm in found.arms) else None


def _folder_of_search(name: str, runs: Path) -> Path | None:
    for folder in (runs / name, Path(name)):
        if (folder / SEARCH_FILE).is_file():
            return folder
        if (folder / "study.json").is_file():
            return None
    return None


def _draw(search: Search | None, comparison: Comparison | None, plot: Path) -> None:
    """The arms, or the search where there are none."""
    if comparison is not None:
        from eramv_lab.report.plots import draw_pareto

        draw_pareto(comparison, plot)
    elif search is not None:
        from eramv_lab.report.search_plots import draw_search

        draw_search(search, plot)
