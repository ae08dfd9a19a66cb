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

from eramv_lab.track.store import EXPERIMENT, client_of, quoted

TAG = "mlflow.sharedViewState."
COLUMNS = (
    *("metrics.`accuracy`", "metrics.`prefill_tflops`", "metrics.`train_pflops`"),
    *("metrics.`parameters`", "metrics.`visual_tokens`", "metrics.`seconds`"),
    *("params.`arm`", "params.`seed`", "params.`anchors`", "params.`selector`", "params.`band`"),
    *("params.`bridge`", "params.`sharing`", "params.`reducer`", "tags.`eramv.study`"),
)
AXES = ("selector", "anchors", "band", "bridge", "sharing", "reducer")  # every fit has them
CURVES = ("val/accuracy", "val/loss", "train/loss", "train/lr")


def filter_of(study: str) -> str:
    """MLflow's search for the fits of a study, each shown once."""
    return f"tags.`eramv.study` = {quoted(study)} and tags.`eramv.kind` = 'fit'"


def save_view(uri: str, experiment_id: str, study: str) -> str | None:
    """Write the saved view of `study`; returns its key, None (and a warning) where it failed."""
    key = hashlib.sha256(study.encode()).hexdigest()[:16]
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(view_state(study)).encode())).decode()
    value = {"name": study, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    try:
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


def filter_link(experiment_id: str, study: str) -> str:
    """Path of the plain list of a study's fits, to follow the server's address."""
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&searchFilter={quote(filter_of(study), safe='')}"
    )


def studies_of(uri: str) -> list[tuple[str, str]]:
    """(experiment id, study) of every study in the store, the one begun last first."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = experiment.experiment_id
    runs = client.search_runs([where], "tags.`eramv.kind` = 'ablation'", max_results=100)
    return [(where, run.data.tags["eramv.study"]) for run in runs]


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
    return {
        "searchFilter": filter_of(study),
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": [first, both, curves],
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
        "runsCountToCompare": 100,
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
