"""The files that a search leaves for its reader: the report, the page, pictures, every trial."""

from __future__ import annotations

from pathlib import Path

from eramv_lab.errors import LabError
from eramv_lab.report import search_page, search_plots, search_table
from eramv_lab.report.placement import draw_placement
from eramv_lab.report.search_file import SEARCH_FILE, read_search


def write_search_report(study_dir: Path) -> list[Path]:
    """Write trials.csv, search.md, pareto.html, search.png, history.png and, where there is enough
    for them, placement.png and importance.png into `study_dir`; returns their paths.

    Raises LabError where there is no search.json, or one that cannot be read.
    """
    search = read_search(study_dir)
    if search is None:
        raise LabError(f"there is no {SEARCH_FILE} in {study_dir}")
    texts = {
        "trials.csv": search_table.as_csv(search),
        "search.md": search_table.markdown(search),
        "pareto.html": search_page.html(search),
    }
    for name, text in texts.items():
        (study_dir / name).write_text(text, encoding="utf-8", errors="replace")
    drawn = [
        search_plots.draw_search(search, study_dir / "search.png"),
        search_plots.draw_history(search, study_dir / "history.png"),
        draw_placement(search, study_dir / "placement.png"),
        search_plots.draw_importance(search, study_dir / "importance.png"),
    ]
    return [study_dir / name for name in texts] + [file for file in drawn if file is not None]
