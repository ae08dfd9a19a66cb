"""`compare`: read finished fits and print, plot or hand on what tells their arms apart."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from eramv_lab.errors import Problem, UserError
from eramv_lab.report import table
from eramv_lab.report.comparison import Comparison, compare
from eramv_lab.report.plain import to_plain
from eramv_lab.report.runs import find, find_study

PICTURES = (".png", ".pdf", ".svg")
"""What the name of a plot may end in."""


def compare_study(study_dir: Path) -> Comparison:
    """The comparison of a study's arms, from its folder alone."""
    return compare(find_study(study_dir))


def main(names: Sequence[str], runs: Path, json: bool = False, plot: Path | None = None) -> int:
    """Print the comparison of studies or run folders called `names`; 0, or an error is raised.

    `json` prints plain data instead of the table; `plot` also draws accuracy against prefill FLOPs
    into that file (png, pdf, svg). Raises UserError for a plot of another kind before anything is
    read.
    """
    if plot is not None and plot.suffix.lower() not in PICTURES:
        message = f"a plot is a picture by its ending, found {str(plot)!r}"
        raise UserError(Problem(message=message, key="--plot", allowed=PICTURES))
    comparison = compare(find(names, runs))
    if json:
        print(json_format.dumps(to_plain(comparison), indent=1, allow_nan=False))
    else:
        table.show(comparison)
    if plot is not None:
        from eramv_lab.report.plots import draw_pareto

        draw_pareto(comparison, plot)
        print(f"plot: {plot}", file=sys.stderr)
    return 0
