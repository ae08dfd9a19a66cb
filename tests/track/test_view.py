"""Parameters, links and the saved view; the server's refusals."""

import base64
import json
import socket
import subprocess
import zlib
from pathlib import Path

import pytest

from eramv_lab.errors import LabError, UserError
from eramv_lab.track import ui, view
from eramv_lab.track.params import short_params
from eramv_lab.track.store import client_of, start_study


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


def test_saved_view_is_a_tag_that_unpacks(uri: str):
    study = start_study(uri, "ca")
    key = view.save_view(uri, study.experiment_id, "ca")
    assert key is not None and view.save_view(uri, study.experiment_id, "ca") == key
    tags = client_of(uri).get_experiment(study.experiment_id).tags
    saved = json.loads(tags[view.TAG + key])
    packed = saved["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state["searchFilter"] == view.filter_of("ca")
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} < sections
    assert state["compareRunSections"][0]["uuid"] not in {
        chart["metricSectionId"] for chart in state["compareRunCharts"]
    }
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == 6


def test_links_of_the_last_studies(uri: str):
    start_study(uri, "first")
    second = start_study(uri, "second")
    names, paths = zip(*ui.page_links(uri), strict=True)
    assert names == ("second", "second (plain list)", "first", "first (plain list)")
    assert paths[0].startswith(f"/#/experiments/{second.experiment_id}/runs?viewStateShareKey=")
    assert all("workflowType=machine_learning" in path for path in paths)


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
