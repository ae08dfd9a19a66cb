"""The page of MLflow's UI that shows a study as it should be read: a saved view, best effort.

The format of a saved view is not documented (seen in MLflow 3.17): a tag of the experiment that
holds the state of the page. Where it cannot be written, the plain filter link still works.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import warnings
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from eramv_lab.track.client import client_of, quoted, search
from eramv_lab.track.store import EXPERIMENT

TAG = "mlflow.sharedViewState."
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
MOST = 1000  # runs in one chart; the page has 100, more with its button
STUDIES = ("ablation", "sweep")
SEARCHED = (
    *("anchors", "band_start", "band_length", "bridge", "sharing", "fusion", "selector"),
    *("connector", "reducer", "fine", "lr", "steps", "images", "optimizer"),
)
AXES = ("selector", "anchors", "band", "bridge", "sharing", "reducer")  # every fit has them
CURVES = ("val/accuracy", "val/loss", "train/loss", "train/lr")


def filter_of(study: str, kind: str = "fit") -> str:
    """MLflow's search for the fits (or the trials) of a study, each shown once."""
    return f"tags.`eramv.study` = {quoted(study)} and tags.`eramv.kind` = '{kind}'"


def save_view(uri: str, experiment_id: str, study: str, kind: str = "fit") -> str | None:
    """Write the saved view of a study's fits or, with `kind="trial"`, of a sweep's trials.

    Returns its key, None (and a warning) where it failed.
    """
    name = study if kind == "fit" else f"{study}: trials"
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    now = int(time.time() * 1000)
    try:
        if kind == "trial":
            state = trials_state(study, varied(uri, experiment_id, study))
        else:
            state = view_state(study)
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        value = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        client_of(uri).set_experiment_tag(experiment_id, TAG + key, json.dumps(value))
    except Exception as error:
        warnings.warn(f"the saved view of {study} could not be written: {error}", stacklevel=2)
        return None
    return key


def view_link(experiment_id: str, key: str) -> str:
    """Path of the page with the charts of a saved view, to follow the server's address."""
    return (
        f"/#/experiments/{experiment_id}/runs?viewStateShareKey={key}"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )


def filter_link(experiment_id: str, study: str, kind: str = "fit") -> str:
    """Path of the plain list of a study's fits (or trials), to follow the server's address."""
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&searchFilter={quote(filter_of(study, kind), safe='')}"
    )


def links_of(uri: str, experiment_id: str, study: str, kind: str) -> list[tuple[str, str]]:
    """(what it shows, path) of the pages of one study: the charts, and the plain list.

    `kind`: ablation or sweep. A sweep has pages of its trials and, where it came to fit arms in
    the end, of its fits. The saved views are written on the way.
    """
    shown = [("fit", study)]
    if kind == "sweep":
        shown = [("trial", f"{study}, trials")]
        below = {"eramv.study": study, "eramv.kind": "fit"}
        if search(client_of(uri), experiment_id, below):
            shown.append(("fit", f"{study}, final arms"))
    links: list[tuple[str, str]] = []
    for what, name in shown:
        key = save_view(uri, experiment_id, study, what)
        if key is not None:
            links.append((name, view_link(experiment_id, key)))
        links.append((f"{name} (plain list)", filter_link(experiment_id, study, what)))
    return links


def studies_of(uri: str) -> list[tuple[str, str, str]]:
    """(experiment id, study, kind) of every study in the store, the one begun last first.

    `kind`: ablation or sweep.
    """
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = experiment.experiment_id
    runs = [run for kind in STUDIES for run in search(client, where, {"eramv.kind": kind})]
    runs.sort(key=lambda run: run.info.start_time, reverse=True)
    return [(where, run.data.tags["eramv.study"], run.data.tags["eramv.kind"]) for run in runs]


def varied(uri: str, experiment_id: str, study: str) -> list[str]:
    """The parameters in which a sweep's trials differ; those of a band where there are none yet.

    Only those that every trial has: a chart of parallel coordinates leaves out the others.
    """
    trials = search(client_of(uri), experiment_id, {"eramv.study": study, "eramv.kind": "trial"})
    found = [[run.data.params.get(name) for run in trials] for name in SEARCHED]
    names = [
        name
        for name, values in zip(SEARCHED, found, strict=True)
        if len(set(values)) > 1 and None not in values
    ]
    return names or list(SEARCHED[:4])


def view_state(study: str) -> dict[str, Any]:
    """State of the page: the study's fits by accuracy, with the charts that compare them."""
    # MLflow 3.17 shows every section but the first: that one stays empty
    first, both, curves = (_section(study, name) for name in ("First", "Comparison", "Curves"))
    charts = [
        _chart(
            both,
            "SCATTER",
            "accuracy against prefill TFLOPs",
            xaxis={"key": "prefill_tflops", "type": "METRIC"},
            yaxis={"key": "accuracy", "type": "METRIC"},
        ),
        _chart(
            both,
            "PARALLEL",
            "what was chosen, and the accuracy",
            selectedParams=list(AXES),
            selectedMetrics=["accuracy"],
            showAllRuns=False,
        ),
        *(_line(curves, name) for name in CURVES),
    ]
    return _state(filter_of(study), COLUMNS, charts, [first, both, curves])


def trials_state(study: str, axes: Sequence[str] = SEARCHED[:4]) -> dict[str, Any]:
    """State of the page of a sweep: all trials by accuracy, where they are good and what it costs.

    `axes`: the parameters that were searched.
    """
    names = ("First", "Trade-off", "Where in the space", "Curves")
    first, both, space, curves = (_section(f"{study}: trials", name) for name in names)
    charts = [
        _chart(
            both,
            "SCATTER",
            "accuracy against prefill TFLOPs",
            xaxis={"key": "prefill_tflops", "type": "METRIC"},
            yaxis={"key": "accuracy", "type": "METRIC"},
        ),
        _chart(
            both,
            "PARALLEL",
            "what was tried, and the accuracy",
            selectedParams=list(axes),
            selectedMetrics=["accuracy"],
            showAllRuns=False,
        ),
        _chart(
            space,
            "CONTOUR",
            "accuracy by the band's start and length",
            xaxis={"key": "band_start", "type": "PARAM"},
            yaxis={"key": "band_length", "type": "PARAM"},
            zaxis={"key": "accuracy", "type": "METRIC"},
        ),
        *(_line(curves, name) for name in CURVES),
    ]
    return _state(filter_of(study, "trial"), TRIAL_COLUMNS, charts, [first, both, space, curves])


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
        "isAccordionReordered": False,
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
