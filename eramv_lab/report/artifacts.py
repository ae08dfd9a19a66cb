"""The files that a finished study leaves for its reader: tables, plots, and the same as data."""

from __future__ import annotations

import json
from pathlib import Path

from eramv_lab.report import plots, table
from eramv_lab.report.comparison import compare
from eramv_lab.report.plain import to_plain
from eramv_lab.report.runs import find_study
from eramv_lab.report.search_artifacts import write_search_report
from eramv_lab.report.search_file import SEARCH_FILE


def write_report(study_dir: Path) -> list[Path]:
    """Write table.md, table.csv, compare.json, pareto.png and, but for a league, types.png and,
    where there are training curves, curves.png into `study_dir`, and the report of the search that
    the study ends, if it does; returns their paths. Raises UserError where no fit has finished.
    """
    searched = write_search_report(study_dir) if (study_dir / SEARCH_FILE).is_file() else []
    found = find_study(study_dir)
    comparison = compare(found)
    texts = {
        "table.md": table.markdown(comparison),
        "table.csv": table.as_csv(comparison),
        "compare.json": json.dumps(to_plain(comparison), indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        (study_dir / name).write_text(text, encoding="utf-8")
    drawn = [plots.draw_pareto(comparison, study_dir / "pareto.png")]
    if comparison.league is None:  # of so many arms neither bars nor curves can be read
        drawn += [
            plots.draw_types(comparison, study_dir / "types.png"),
            plots.draw_curves(found.arms, study_dir / "curves.png"),
        ]
    written = [study_dir / name for name in texts] + [file for file in drawn if file is not None]
    return written + searched
