"""MLflow's pages of a sweep, opened in a real browser: every chart draws every trial."""

import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from eramv_lab.track.client import client_of
from eramv_lab.track.page import AXES
from eramv_lab.track.store import (
    StudyRun,
    closed_trial,
    finish_fit,
    finish_study,
    start_fit,
    start_study,
)
from tests.browser import Browser, browser, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}"),
]
TRIALS = 24
ROWS = "return document.querySelectorAll('[data-testid=experiment-view-table-run-color]').length"
CHARTS = """
const titled = axis => axis && axis.title ? axis.title.text || axis.title : '';
const plots = Array.from(document.querySelectorAll('.js-plotly-plot')).map(plot => ({
  x: titled(plot.layout.xaxis), y: titled(plot.layout.yaxis),
  contours: plot.querySelectorAll('.contourlayer path').length,
  z: (plot.data.find(trace => trace.type == 'contour') || {z: []}).z.length,
  traces: plot.querySelectorAll('.scatterlayer .trace').length,
  points: plot.querySelectorAll('.scatterlayer .point').length}));
const lines = Array.from(document.querySelectorAll('.parcoords')).map(chart => {
  // the lines are strokes on a canvas: their number is in what React gave the chart to draw
  let node = chart[Object.keys(chart).find(key => key.startsWith('__reactFiber$'))];
  while (node && !(node.memoizedProps && node.memoizedProps.selectedParams)) node = node.return;
  const canvas = chart.querySelector('canvas.foreground');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return {lines: node.memoizedProps.data.length, inked: pixels.filter((v, i) => i % 4 == 3 && v)
    .length, axes: Array.from(chart.querySelectorAll('.dimension .label')).map(t => t.textContent)};
});
return {plots, lines};
"""


def trial(study: StudyRun, number: int) -> None:
    """A made-up trial: longer bands and more anchors are better and dearer."""
    start, length, anchors = number % 4, number // 4 % 3 + 1, (4, 16)[number // 12]
    accuracy = 0.5 + 0.09 * length + 0.03 * math.log2(anchors) - 0.04 * abs(start - 1.5)
    pruned = number % 5 == 4
    name = f"t{number:03d} s{start} n{length} a{anchors}"
    bridge = ("none", "mlp")[(start + length) % 2]
    params = {"anchors": anchors, "band_start": start, "band_length": length, "bridge": bridge}
    run_id = start_fit(
        study, "trial", 0, params, {"eramv.hash": f"h{number}"}, kind="trial", name=name
    )
    reached(study, run_id, accuracy, (50, 100) if pruned else (50, 100, 150, 200))
    finish_fit(
        study.uri,
        run_id,
        {
            "accuracy": accuracy - 0.2 * pruned,
            "prefill_tflops": 5e-5 + 1.5e-5 * length + 1e-6 * anchors,
        },
        tags={"eramv.state": "pruned" if pruned else "complete", "feasible": "true"},
    )


def reached(study: StudyRun, run_id: str, accuracy: float, steps: Sequence[int]) -> None:
    for step in steps:
        value = accuracy * (1 - math.exp(-step / 50))
        client_of(study.uri).log_metric(run_id, "val/accuracy", value, step=step)


@pytest.fixture
def sweep(uri: str) -> StudyRun:
    study = start_study(uri, "band_search", kind="sweep", close_running=False)
    for number in range(TRIALS):
        trial(study, number)
    params = {"anchors": 64, "band_start": 0, "band_length": 6, "bridge": "mlp"}
    tags = {"eramv.hash": "big", "eramv.state": "infeasible", "feasible": "false"}
    closed_trial(study, "t024 s0 n6 a64", params, tags, {"prefill_tflops": 3e-4})
    for arm, accuracy, price in (("best", 0.9, 1e-4), ("plain", 0.7, 9e-5)):
        params = dict.fromkeys(AXES, "none") | {"anchors": 16, "selector": "cls_topk"}
        run_id = start_fit(study, arm, 0, params)
        reached(study, run_id, accuracy, (100, 200))
        finish_fit(uri, run_id, {"accuracy": accuracy, "prefill_tflops": price})
    finish_study(study)
    return study


@pytest.fixture
def links(runs: Path, sweep: StudyRun) -> Iterator[dict[str, str]]:
    """The links that `ui` prints."""
    serve = "import sys, pathlib; from eramv_lab.track.ui import serve"
    serve += "; sys.exit(serve(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    command = [sys.executable, "-c", serve, str(runs), str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found: dict[str, str] = {}
    try:
        for line in process.stdout:
            if match := re.fullmatch(r"  (\S.*?) +(http\S+)\n", line):
                found[match[1]] = match[2]
            if len(found) == 4:
                break
        yield found
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile", free_port(), size=(1800, 2000)) as opened:
        yield opened


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def keep(window: Browser, file: Path) -> None:
    """A screenshot beside the test's files and, where ERAMV_TEST_OUTPUT names one, in a folder."""
    print(f"screenshot: {window.picture(file)}")
    if folder := os.environ.get("ERAMV_TEST_OUTPUT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        print(f"screenshot: {shutil.copy(file, folder)}")


def look(window: Browser, url: str, rows: int, picture: Path) -> dict[str, list[dict]]:
    """What the charts of a page draw, once they stopped changing."""
    window.open(url)
    try:
        window.wait(ROWS, lambda found: found >= rows)
        window.wait("return document.querySelectorAll('.parcoords canvas.foreground').length")
        before = None
        while (now := window.run(CHARTS)) != before:
            before = now
            time.sleep(3)
    finally:
        keep(window, picture)
    text = window.run("return document.body.innerText")
    for bad in ("No charts", "No matching data", "No data", "are hidden", "Select at least"):
        assert bad not in text, bad
    return now


def test_a_sweep_in_the_browser(links: dict[str, str], window: Browser, tmp_path: Path):
    assert list(links) == [
        "band_search, trials",
        "band_search, trials (plain list)",
        "band_search, final arms",
        "band_search, final arms (plain list)",
    ]
    # every trial is in the list, every one that has an accuracy in the charts
    shown = look(window, links["band_search, trials"], TRIALS + 1, tmp_path / "trials.png")
    plots = {(plot["x"], plot["y"]): plot for plot in shown["plots"]}
    assert plots["prefill_tflops", "accuracy"]["points"] == TRIALS
    assert plots["anchors", "accuracy"]["points"] == TRIALS
    contour = plots["band_start", "band_length"]
    assert contour["points"] == contour["z"] == TRIALS and contour["contours"] > 3
    assert plots["Step", ""]["traces"] >= TRIALS
    (parallel,) = shown["lines"]
    assert parallel["lines"] == TRIALS and parallel["inked"] > 1000
    assert parallel["axes"] == ["anchors", "band_start", "band_length", "bridge", "accuracy"]

    arms = look(window, links["band_search, final arms"], 2, tmp_path / "arms.png")
    assert {plot["points"] for plot in arms["plots"] if plot["x"] == "prefill_tflops"} == {2}
