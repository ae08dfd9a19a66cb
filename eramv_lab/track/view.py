"""The pages of MLflow's UI that show a study as it should be read: saved views, best effort.

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
from urllib.parse import quote

from eramv_lab.track.client import client_of, search
from eramv_lab.track.page import SEARCHED, filter_of, fits_page, trials_page
from eramv_lab.track.params import TRAIN
from eramv_lab.track.store import EXPERIMENT

TAG = "mlflow.sharedViewState."
STUDIES = ("ablation", "sweep")
"""Kinds of the runs that studies have."""
PARAMS = (*SEARCHED, "sharing", "fusion", "selector", "connector", "reducer", "fine", *TRAIN)
"""The parameters in which trials may differ, in the order of the chart's axes."""


def save_view(uri: str, experiment_id: str, study: str, kind: str = "fit") -> str | None:
    """Write the saved view of a study's fits or, with `kind="trial"`, of a sweep's trials.

    Returns its key, None (and a warning) where it failed.
    """
    name = study if kind == "fit" else f"{study}: trials"
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    now = int(time.time() * 1000)
    try:
        if kind == "trial":
            state = trials_page(study, varied(uri, experiment_id, study))
        else:
            state = fits_page(study)
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
    """The parameters in which a sweep's trials differ; the usual ones where there are none yet.

    Only those that every trial with an accuracy has: parallel coordinates leave out the others.
    """
    trials = search(client_of(uri), experiment_id, {"eramv.study": study, "eramv.kind": "trial"})
    params = [run.data.params for run in trials if "accuracy" in run.data.metrics]
    found = {name: {own.get(name) for own in params} for name in PARAMS}
    return [k for k in PARAMS if len(found[k]) > 1 and None not in found[k]] or list(SEARCHED)
