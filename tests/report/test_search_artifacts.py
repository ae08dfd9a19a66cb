"""The files of a search: pictures, the page in a browser's sandbox, and `compare` of its folder."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.errors import LabError, UserError
from eramv_lab.report import artifacts, compare, placement, search_page
from eramv_lab.report.search_artifacts import write_search_report
from eramv_lab.report.search_file import read_search

Write = Callable[..., Path]
Trial = Callable[..., dict]
ALWAYS = {"trials.csv", "search.md", "pareto.html", "search.png", "history.png"}
HOSTILE = (
    """</script><script>document.title='no'</script> "quoted" 'it' $a^^ \\frac <!-- & \u2028"""
)


def goal(metric: str, direction: str) -> dict:
    return {"metric": metric, "direction": direction}


def names(files: list[Path]) -> set[str]:
    assert all(file.stat().st_size > 0 for file in files)
    return {file.name for file in files}


def page_data(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def test_all_files(tmp_path: Path, write_search: Write):
    folder = write_search(tmp_path)
    assert names(write_search_report(folder)) == ALWAYS | {"placement.png", "importance.png"}
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_search_report(folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (0, {"importance": {}}),
        (1, {"importance": {}}),
        (2, {"importance": {"train.lr": math.nan}, "budget": None, "reference": None}),
        (4, {"importance": {}, "space": None, "goals": [goal("prefill_tflops", "minimize")]}),
        (4, {"importance": {}, "goals": [goal("latency_ms", "minimize")], "best": None}),
    ],
)
def test_little_is_enough(tmp_path: Path, write_search: Write, count: int, changes: dict):
    assert names(write_search_report(write_search(tmp_path, count, **changes))) == ALWAYS


def test_nothing_finished(tmp_path: Path, write_search: Write, search_trial: Trial):
    trials = [search_trial(i, 1, i, 4, state="failed") for i in range(1, 4)]
    folder = write_search(tmp_path, trials=trials, best=None, finalists=[], importance={})
    assert names(write_search_report(folder)) == ALWAYS
    assert "No trial has finished" in (folder / "search.md").read_text()


@pytest.mark.parametrize("second", ["prefill_tflops", "latency_ms", "visual_tokens", "loss"])
def test_two_goals(tmp_path: Path, write_search: Write, second: str):
    goals = [goal("accuracy", "maximize"), goal(second, "minimize")]
    folder = write_search(tmp_path, goals=goals, best=None, budget=[])
    assert names(write_search_report(folder)) >= ALWAYS
    data = page_data((folder / "pareto.html").read_text())
    assert data["axes"]["across"]["metric"] == second and data["frontier"]


def test_names_cannot_leave_their_place(tmp_path: Path, write_search: Write, search_trial: Trial):
    trial = search_trial(0, 1, 1, 4, label=HOSTILE, given=HOSTILE, error=HOSTILE + "\udc80")
    trial["params"] = {HOSTILE: HOSTILE, "train.lr": math.nan, "x": 10**400}
    other = search_trial(1, 2, 1, 8)
    changes = {"study": HOSTILE, "question": HOSTILE, "importance": {HOSTILE: 0.5}}
    folder = write_search(tmp_path, trials=[trial, other], best={"number": 0}, **changes)
    assert names(write_search_report(folder)) == ALWAYS | {"placement.png", "importance.png"}
    page = (folder / "pareto.html").read_text()
    assert len(re.findall("<script", page)) == len(re.findall("</script>", page)) == 2
    assert "<!--" not in page
    assert page_data(page)["study"] == HOSTILE
    assert compare.main(["band_search"], tmp_path) == 0


def test_page_asks_for_nothing(tmp_path: Path, write_search: Write):
    search = read_search(write_search(tmp_path))
    assert search is not None
    page = search_page.html(search)
    assert "default-src 'none'" in page
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(|fetch\(|XMLHttp|localStorage|cookie", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in page


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("count", [0, 1, 24])
def test_page_runs_in_a_sandbox(tmp_path: Path, write_search: Write, count: int):
    search = read_search(write_search(tmp_path, count))
    assert search is not None
    script = """<script>
      const count = (where) => document.querySelectorAll(where).length;
      const all = [count("circle.point"), count("#trials tbody tr")];
      document.querySelector("#layers button")?.click();
      document.querySelector("#trials th button").click();
      by.selectedIndex = 0;
      by.dispatchEvent(new Event("change"));
      document.querySelector("circle.point")?.dispatchEvent(new PointerEvent("pointerenter"));
      all.push(count("circle.point"), document.title);
      parent.postMessage(JSON.stringify(all), "*");
    </script></body>"""
    (tmp_path / "in.html").write_text(search_page.html(search).replace("</body>", script))
    (tmp_path / "out.html").write_text(
        '<iframe sandbox="allow-scripts" src="in.html"></iframe><pre></pre><script>'
        'onmessage = (e) => document.querySelector("pre").append(e.data)</script>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--disable-background-networking", "--virtual-time-budget=4000", "--dump-dom"]
    ran = subprocess.run(
        ["chromium", *options, f"file://{tmp_path}/out.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("<pre>(.*)</pre>", ran.stdout)
    assert found, ran.stderr[-2000:]
    points, rows, left, title = json.loads(found[1])
    assert rows == count and title == "band_search: search"
    assert (points, left) == {0: (0, 0), 1: (1, 0), 24: (21, 7)}[count]


def test_placement_tells_empty_cells_apart(
    tmp_path: Path, write_search: Write, search_trial: Trial
):
    trials = [
        search_trial(0, 0, 1, 4),
        search_trial(1, 0, 1, 32),
        search_trial(2, 2, 2, 4),
        search_trial(3, 1, 1, 4, state="pruned"),
        search_trial(4, 1, 2, 4, state="failed"),
        search_trial(5, 0, 2, 4, state="infeasible"),
    ]
    space = {
        "keys": {"model.band.start": {"from": 0, "to": 4}, "model.band.length": [1, 2, 4]},
        "layers": 4,
    }
    search = read_search(write_search(tmp_path, trials=trials, space=space))
    assert search is not None
    assert placement.sides(search) == ([0, 1, 2, 3, 4], [1, 2, 3, 4])
    assert placement.best_by_band(search)[0, 1].number == 1
    cells = [(1, 1), (1, 2), (0, 2), (3, 1), (3, 2)]
    assert [placement.empty_cell(search, cell) for cell in cells] == ["p", "f", "i", "", "/"]


def test_no_report_without_a_search(tmp_path: Path):
    with pytest.raises(LabError, match=r"there is no search\.json in"):
        write_search_report(tmp_path)


# --- compare


def test_compare_of_a_search_alone(tmp_path: Path, write_search: Write, capsys):
    write_search(tmp_path)
    picture = tmp_path / "plots" / "search.svg"
    assert compare.main(["band_search"], tmp_path, plot=picture) == 0
    assert "Best found: t007" in capsys.readouterr().out and picture.stat().st_size > 0
    assert compare.main([str(tmp_path / "band_search")], tmp_path / "none", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["search"] and found["search"]["best"]["number"] == 7
    assert found["search"]["hypervolume"]["value"] > 0


def test_compare_of_a_search_with_arms(
    tmp_path: Path, write_search: Write, write_study: Write, capsys
):
    study = write_study(tmp_path, arms=("eramv", "llava"), seeds=(0,), images=10)
    shutil.copy(write_search(tmp_path) / "search.json", study)
    assert compare.main(["ablation_ca"], tmp_path) == 0
    text = capsys.readouterr().out
    assert text.index("Best found") < text.index("vs eramv")
    assert compare.main(["ablation_ca"], tmp_path, json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["arms"]) == ["eramv", "llava"] and found["search"]["study"] == "band_search"
    assert names(artifacts.write_report(study)) >= {"table.md", "search.md", "pareto.html"}
    for result in study.glob("*/result.json"):  # the arms have not finished yet
        result.unlink()
    assert compare.main(["ablation_ca"], tmp_path) == 0
    assert "Best found" in capsys.readouterr().out


def test_a_search_is_not_compared_with_others(
    tmp_path: Path, write_search: Write, write_study: Write
):
    write_study(tmp_path, arms=("eramv",), seeds=(0,), images=4)
    write_search(tmp_path)
    with pytest.raises(UserError, match="band_search is a search without arms yet"):
        compare.main(["ablation_ca", "band_search"], tmp_path)
    with pytest.raises(
        UserError, match=r"did you mean: band_search[\s\S]*ablation_ca, band_search"
    ):
        compare.main(["band_serch"], tmp_path)
