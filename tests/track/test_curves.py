"""Curves reach the file at once and MLflow in batches, and a broken store stops nobody."""

import time
from pathlib import Path

import pytest

from eramv_lab.report.plots import read_curve
from eramv_lab.track.client import client_of
from eramv_lab.track.curves import CurveWriter
from eramv_lab.track.store import start_fit, start_study


def test_points_reach_file_and_store(uri: str, tmp_path: Path):
    run_id = start_fit(start_study(uri, "ca"), "eramv", 0, {})
    file = tmp_path / "fit" / "curves.csv"
    with CurveWriter(uri, run_id, file, points=7) as curves:
        for step in range(10):
            curves.log(step, {"train/loss": 1 / (step + 1), "val/accuracy": step / 10})
        assert read_curve(file, "val/accuracy")[-1] == (9, 0.9)  # before anything is closed
    stored = client_of(uri).get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in stored] == [(s, 1 / (s + 1)) for s in range(10)]


def test_logging_does_not_wait_for_the_store(uri: str, tmp_path: Path):
    run_id = start_fit(start_study(uri, "ca"), "eramv", 0, {})
    curves = CurveWriter(uri, run_id, tmp_path / "curves.csv", seconds=60)
    start = time.perf_counter()
    for step in range(1000):
        curves.log(step, {"train/loss": 1.0})
    taken = time.perf_counter() - start
    curves.close()
    assert taken < 0.5  # 1000 points one by one take MLflow some 20 s
    assert len(client_of(uri).get_metric_history(run_id, "train/loss")) == 1000


def test_points_leave_by_the_clock(uri: str, tmp_path: Path):
    run_id = start_fit(start_study(uri, "ca"), "eramv", 0, {})
    with CurveWriter(uri, run_id, tmp_path / "curves.csv", seconds=0.1) as curves:
        curves.log(1, {"train/loss": 1.0})
        until = time.monotonic() + 20
        while not client_of(uri).get_metric_history(run_id, "train/loss"):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_broken_store_is_a_warning(uri: str, tmp_path: Path):
    curves = CurveWriter(uri, "no-such-run", tmp_path / "curves.csv")
    curves.log(1, {"train/loss": 1.0})
    with pytest.warns(UserWarning, match=r"curves\.csv has them"):
        curves.close()
    assert read_curve(tmp_path / "curves.csv", "train/loss") == [(1, 1.0)]


def test_without_a_store(tmp_path: Path):
    with CurveWriter(None, None, tmp_path / "curves.csv") as curves:
        curves.log(1, {"val/loss": 2.0})
    assert (tmp_path / "curves.csv").read_text() == "step,name,value\n1,val/loss,2.0\n"


def test_a_run_that_goes_on_has_every_point_once(uri: str, tmp_path: Path):
    run_id = start_fit(start_study(uri, "ca"), "eramv", 0, {})
    with CurveWriter(uri, run_id, tmp_path / "curves.csv") as curves:
        for step in range(4):
            curves.log(step, {"train/loss": float(step)})
        saved = curves.text()
        curves.log(4, {"train/loss": 4.0})  # lost to the file that goes on, not to MLflow
    saved += "3,val/loss,0.5\n"  # in the file, never sent
    with CurveWriter(uri, run_id, tmp_path / "curves.csv", kept=saved) as curves:
        for step in range(4, 7):
            curves.log(step, {"train/loss": float(step), "val/loss": 0.25})
    stored = client_of(uri).get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in stored] == [(s, float(s)) for s in range(7)]
    assert [m.step for m in client_of(uri).get_metric_history(run_id, "val/loss")] == [3, 4, 5, 6]
    assert [s for s, _ in read_curve(tmp_path / "curves.csv", "train/loss")] == list(range(7))
