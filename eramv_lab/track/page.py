"""What a page of MLflow's UI shows: which runs, which columns, and the charts that compare them.

The state of a page is not documented (seen in MLflow 3.17).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from eramv_lab.track.client import quoted

COLUMNS = (
    *("metrics.`accuracy`", "metrics.`prefill_tflops`", "metrics.`train_pflops`"),
    *("metrics.`parameters`", "metrics.`visual_tokens`", "metrics.`seconds`"),
    *("params.`arm`", "params.`seed`", "params.`anchors`", "params.`selector`", "params.`band`"),
    *("params.`bridge`", "params.`sharing`", "params.`reducer`", "tags.`eramv.study`"),
)
TRIAL_COLUMNS = (
    *("metrics.`accuracy`", "metrics.`prefill_tflops`", "params.`anchors`"),
    *("params.`band_start`", "params.`band_length`", "params.`bridge`"),
    *("tags.`feasible`", "tags.`eramv.state`"),
)
AXES = ("selector", "anchors", "band", "bridge", "sharing", "reducer")  # every fit has them
SEARCHED = ("anchors", "band_start", "band_length", "bridge")
"""What a sweep is taken to search until its trials say."""
CURVES = ("val/accuracy", "val/loss", "train/loss", "train/lr")
MOST = 1000  # runs in a chart; the page has the first 100, and a button for more


def filter_of(study: str, kind: str = "fit") -> str:
    """MLflow's search for the fits (or the trials) of a study, each shown once."""
    return f"tags.`eramv.study` = {quoted(study)} and tags.`eramv.kind` = '{kind}'"


def fits_page(study: str) -> dict[str, Any]:
    """State of the page: the study's fits by accuracy, with the charts that compare them."""
    both, curves = (_section(study, name) for name in ("Comparison", "Curves"))
    charts = [
        _scatter(both, "prefill_tflops", "METRIC"),
        _parallel(both, AXES),
        *(_line(curves, name) for name in CURVES),
    ]
    return _state(filter_of(study), COLUMNS, charts, [both, curves])


def trials_page(study: str, axes: Sequence[str] = SEARCHED) -> dict[str, Any]:
    """State of the page of a sweep: its trials by accuracy, what they cost, and where in the
    space the good ones are. `axes`: the parameters that were searched.
    """
    names = ("Trade-off", "Space", "Curves")
    both, space, curves = (_section(f"{study}: trials", name) for name in names)
    charts = [_scatter(both, "prefill_tflops", "METRIC"), _parallel(both, axes)]
    if {"band_start", "band_length"} <= set(axes):
        charts.append(_contour(space, "band_start", "band_length"))
    if "anchors" in axes:
        charts.append(_scatter(space, "anchors", "PARAM"))
    charts += [_line(curves, name) for name in CURVES]
    filled = {chart["metricSectionId"] for chart in charts}
    sections = [section for section in (both, space, curves) if section["uuid"] in filled]
    return _state(filter_of(study, "trial"), TRIAL_COLUMNS, charts, sections)


def _state(
    shown: str,
    columns: Sequence[str],
    charts: list[dict[str, Any]],
    sections: list[dict[str, Any]],
) -> dict[str, Any]:
    """State of a page with the runs that `shown` finds, all of them drawn in all charts."""
    return {
        "searchFilter": shown,
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,  # else by name
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _section(study: str, name: str) -> dict[str, Any]:
    section = {"uuid": _uuid([study, name]), "name": name, "display": True}
    section |= {"columns": 2, "cardHeight": 420}
    return section | {"isReordered": False, "deleted": False, "isGenerated": False}


def _chart(section: dict[str, Any], kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": _uuid([section["uuid"], name]),
        "metricSectionId": section["uuid"],
        "displayName": name,
        "runsCountToCompare": MOST,
        "deleted": False,
        "isGenerated": False,
    } | more


def _axis(key: str, kind: str = "METRIC") -> dict[str, str]:
    return {"key": key, "type": kind}


def _scatter(section: dict[str, Any], x: str, kind: str) -> dict[str, Any]:
    name = f"accuracy against {x}"
    return _chart(section, "SCATTER", name, xaxis=_axis(x, kind), yaxis=_axis("accuracy"))


def _parallel(section: dict[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    return _chart(
        section,
        "PARALLEL",
        "what was chosen, and the accuracy",
        selectedParams=list(axes),
        selectedMetrics=["accuracy"],
        showAllRuns=False,
    )


def _contour(section: dict[str, Any], x: str, y: str) -> dict[str, Any]:
    return _chart(
        section,
        "CONTOUR",
        f"accuracy by {x} and {y}",
        xaxis=_axis(x, "PARAM"),
        yaxis=_axis(y, "PARAM"),
        zaxis=_axis("accuracy"),
    )


def _line(section: dict[str, Any], metric: str) -> dict[str, Any]:
    return _chart(
        section,
        "LINE",
        metric,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        yAxisKey="metric",
        scaleType="linear",
        xAxisScaleType="linear",
        range={},
        lineSmoothness=0,
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
        yAxisExpressions=[],
        selectedXAxisMetricKey="",
    )


def _uuid(parts: Sequence[str]) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]
