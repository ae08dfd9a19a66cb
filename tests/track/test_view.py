"""Parameters, links and the saved view; the server's refusals."""

import base64
import json
import socket
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from eramv_lab.errors import LabError, UserError
from eramv_lab.track import page, ui, view
from eramv_lab.track.client import client_of
from eramv_lab.track.params import short_params
from eramv_lab.track.store import closed_trial, finish_fit, start_fit, start_study


def test_short_params_of_a_recipe():
    recipe = {
        "model": {
            "anchors": {"type": "cls_topk", "count": 8, "cls": True},
            "band": {"layers": [2, 3], "type": "attend"},
            "bridge": {"type": "mlp"},
            "reducer": [{"type": "drop"}, {"type": "drop"}],
            "sharing": "none",
        },
        "train": {"steps": 200, "lr": 5e-4},
    }
    params = short_params(recipe, anchors=9)
    assert params == {
        "selector": "cls_topk",
        "anchors": 9,
        "band": "2,3",
        "band_start": 2,
        "band_length": 2,
        "fusion": "attend",
        "bridge": "mlp",
        "reducer": "drop+drop",
        "sharing": "none",
        "steps": 200,
        "lr": 5e-4,
    }
    assert all(len(key) <= 11 for key in params)
    assert short_params({"model": {"anchors": "none", "band": "none"}})["band"] == "none"


def saved(uri: str, experiment_id: str, key: str) -> dict[str, Any]:
    tags = client_of(uri).get_experiment(experiment_id).tags
    packed = json.loads(tags[view.TAG + key])["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    sections = [section["uuid"] for section in state["compareRunSections"]]
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == set(sections)
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    return state


def test_saved_view_is_a_tag_that_unpacks(uri: str):
    study = start_study(uri, "ca")
    key = view.save_view(uri, study.experiment_id, "ca")
    assert key is not None and view.save_view(uri, study.experiment_id, "ca") == key
    state = saved(uri, study.experiment_id, key)
    assert state["searchFilter"] == page.filter_of("ca")
    assert len(state["compareRunCharts"]) == 6


def test_the_view_of_trials_has_what_was_searched(uri: str):
    sweep = start_study(uri, "ca", kind="sweep")
    where = sweep.experiment_id
    key = view.save_view(uri, where, "ca", "trial")
    assert key is not None and key != view.save_view(uri, where, "ca")
    kinds = [chart["type"] for chart in saved(uri, where, key)["compareRunCharts"]]
    assert kinds[:4] == ["SCATTER", "PARALLEL", "CONTOUR", "SCATTER"]
    for number, sharing in enumerate(["none", "all", "none"]):
        params = {"anchors": 4 * (number + 1), "band_start": 2, "sharing": sharing, "lr": 1e-3}
        tags = {"eramv.hash": str(number)}
        run_id = start_fit(sweep, "trial", 0, params, tags, kind="trial")
        finish_fit(uri, run_id, {"accuracy": 0.5})
    closed_trial(sweep, "t3", {"lr": 2.0}, {"eramv.hash": "x", "eramv.state": "failed"})
    assert view.varied(uri, where, "ca") == ["anchors", "sharing"]
    assert view.save_view(uri, where, "ca", "trial") == key
    state = saved(uri, where, key)
    kinds = [chart["type"] for chart in state["compareRunCharts"]]
    assert kinds[:3] == ["SCATTER", "PARALLEL", "SCATTER"] and "CONTOUR" not in kinds
    assert state["compareRunCharts"][1]["selectedParams"] == ["anchors", "sharing"]
    assert state["searchFilter"].endswith("tags.`eramv.kind` = 'trial'")


def test_links_of_the_last_studies(uri: str):
    start_study(uri, "first")
    second = start_study(uri, "second")
    names, paths = zip(*ui.page_links(uri), strict=True)
    assert names == ("second", "second (plain list)", "first", "first (plain list)")
    assert paths[0].startswith(f"/#/experiments/{second.experiment_id}/runs?viewStateShareKey=")
    assert all("workflowType=machine_learning" in path for path in paths)


def test_links_of_a_sweep(uri: str):
    start_study(uri, "first")
    sweep = start_study(uri, "ca", kind="sweep")
    trials = [name for name, _ in ui.page_links(uri)[:3]]
    assert trials == ["ca, trials", "ca, trials (plain list)", "first"]
    start_fit(sweep, "best", 0, {})
    links = view.links_of(uri, sweep.experiment_id, "ca", "sweep")
    assert [name for name, _ in links[2:]] == ["ca, final arms", "ca, final arms (plain list)"]
    assert ui.page_links(uri)[:4] == links and len({path for _, path in links}) == 4


def test_a_view_that_cannot_be_written_is_a_warning(uri: str):
    with pytest.warns(UserWarning, match="saved view of ca"):
        assert view.save_view(uri, "12345", "ca") is None


def test_ui_without_runs(tmp_path: Path):
    with pytest.raises(UserError, match="no runs yet"):
        ui.serve(tmp_path)


def test_ui_with_a_broken_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / ui.DATABASE
    file.write_bytes(b"no database " * 400)
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        return started[0]

    monkeypatch.setattr(ui, "_start", start)
    monkeypatch.setattr(ui, "_check_port", lambda port: None)
    with pytest.raises(LabError, match=r"not a database\n.* move it away") as caught:
        ui.serve(tmp_path)
    assert str(caught.value).startswith(f"{file} cannot be read: ")
    assert started[0].poll() is not None and file.exists()


def test_ui_with_a_taken_port(runs: Path):
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 cannot be used"):
            ui.serve(runs, port=port)
