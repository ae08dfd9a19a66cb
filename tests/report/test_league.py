"""The standings of a league: groups, order, null lines, what was not reached, table and picture."""

import json
import random
from pathlib import Path

import pytest

from eramv_lab.report import artifacts, compare, crowd, style, table
from eramv_lab.report.plain import to_plain

NULL = ("anchors", "random")
PLACES = {  # system: name, trains, (budget, accuracy, share) of each arm
    "llava": ("LLaVA-1.5", "all", [(None, 0.95, 1.0)]),
    "anchors": ("plain anchors", "all", [(0.25, 0.6, 0.26), (0.5, 0.7, 0.5)]),
    "random": ("random patches", "all", [(0.25, 0.4, 0.25), (0.5, 0.6, 0.5)]),
    "fastv": ("FastV", "nothing", [(0.25, 0.5, 0.31), (0.5, 0.92, 0.51)]),
    "vica": ("ViCA", "all", [(None, 0.8, 0.65)]),
    "eramv": ("eRAM-V", "all", [(0.5, 0.9, 0.5)]),
}
REASON = "model.anchors.count: at 1, the least, it costs 31.7 % of llava"


@pytest.fixture
def league(tmp_path: Path, monkeypatch, write_study, made_arms) -> Path:
    """The folder of a league of two budgets."""
    told = {}
    for system, (name, trains, arms) in PLACES.items():
        for budget, accuracy, share in arms:
            arm = system if budget is None else f"{system}_{round(100 * budget)}"
            monkeypatch.setitem(
                made_arms, arm, (accuracy, 400 * share, {"band": "none", "bridge": "none"})
            )
            about = {"system": system, "name": name, "budget": budget, "trains": trains}
            told[arm] = about | {"acts": "there", "source": "arXiv"}
    study = write_study(tmp_path, arms=tuple(told), leave_out=[("random_50", 2)], images=20)
    plan = json.loads((study / "study.json").read_text())
    plan["league"] = {"full": "llava", "budgets": [0.25, 0.5], "null": list(NULL), "arms": told}
    plan["league"]["unreached"] = {"eramv_25": REASON}
    plan["expect"] = {}
    (study / "study.json").write_text(json.dumps(plan))
    return study


def test_each_budget_has_its_systems_by_accuracy(league):
    standings = compare.compare_study(league).league
    assert [group.budget for group in standings.groups] == [None, 0.25, 0.5]
    assert [[line.arm.name for line in group.lines] for group in standings.groups] == [
        ["llava", "vica"],
        ["anchors_25", "fastv_25", "random_25"],
        ["fastv_50", "eramv_50", "anchors_50", "random_50"],
    ]
    assert standings.lines[1].share == pytest.approx(0.65)


def test_everyone_is_paired_with_the_full_model_and_with_plain_anchors_that_cost_no_less(league):
    found = compare.compare_study(league)
    to_null = {line.arm.name: line.to_null and line.to_null.to for line in found.league.lines}
    assert to_null == {
        "llava": None,
        "vica": "anchors_50",  # the dearest
        "anchors_25": None,
        "anchors_50": None,
        "fastv_25": "anchors_50",  # at .31, when those of 25 cost .26
        "random_25": "anchors_25",
        "fastv_50": "anchors_50",
        "eramv_50": "anchors_50",
        "random_50": "anchors_50",
    }
    lines = {line.arm.name: line for line in found.league.lines}
    own, null = lines["fastv_50"].arm.accuracy.mean, lines["anchors_50"].arm.accuracy.mean
    assert lines["fastv_50"].to_null.estimate.mean == pytest.approx(own - null)
    assert lines["random_50"].to_null.seeds == [0, 1]
    assert [lines[name].null_share for name in ("llava", "random_25", "fastv_25")] == [
        None,
        pytest.approx(0.26),
        pytest.approx(0.5),
    ]
    assert {arm.difference.to for arm in found.arms if arm.difference} == {"llava"}


def test_the_table_has_a_block_for_each_budget_and_says_what_was_not_reached(league):
    found = compare.compare_study(league)
    text = table.markdown(found)
    assert "## About 25 % of the prefill of LLaVA-1.5" in text
    assert "## Systems with one price" in text
    assert f"eramv_25: not reached: {REASON}" in text
    assert "Differences are to llava, on the same questions and seeds.\n" in text
    assert "Holm" not in text  # it shows no p
    assert "FastV *" in text and "* training-free" in text
    assert "prefill MFLOPs" in text and "latency ms" in text and "peak MiB" in text
    assert "random patches (null line, 2 of 3 seeds)" in text
    rows = [line for line in text.splitlines() if line.startswith("| FastV")]
    assert len(rows) == 2 and "31.0 %" in rows[0] and "51.0 %" in rows[1]
    assert all(
        " at 50 % " in row and " + " in row for row in rows
    )  # the null's price, what it trains


def test_the_same_numbers_for_programs(league):
    found = compare.compare_study(league)
    plain = to_plain(found)["league"]
    assert plain["unreached"] == {"eramv_25": REASON}
    (line,) = (line for line in plain["lines"] if line["arm"] == "eramv_50")
    assert line["over_null"]["to"] == "anchors_50" and line["prefill_share"] == 0.5
    head, *rows = table.as_csv(found).splitlines()
    assert "over_null" in head.split(",") and len(rows) == len(found.arms)


def test_captions_are_columns_where_there_are_any(league):
    for file in league.glob("*/predictions.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines[::4]:
            scores = {"cider": 5.0, "facts": {"f1": 0.5}}
            line.update(type="caption", caption={"references": ["star 5"], **scores})
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    [file] = league.glob("eramv_50-s0-*/predictions.jsonl")
    file.write_text(file.read_text().replace('"f1": 0.5', '"f1": 0.8'))
    found = compare.compare_study(league)
    head, _, first, *_ = (line for line in table.markdown(found).splitlines() if "|" in line)
    cells = dict(zip(head.split(" | "), first.split(" | "), strict=True))
    assert cells["CIDEr-D"].startswith("500 (") and cells["facts"].startswith("0.500 (")
    assert {"facts vs LLaVA-1.5", "CIDEr-D vs plain anchors"} <= cells.keys()
    lines = {line.arm.name: line for line in found.league.lines}
    assert lines["eramv_50"].captions_to_null["facts"].mean == pytest.approx(
        0.1
    )  # one of three seeds
    assert lines["fastv_50"].captions_to_null["facts"].mean == 0


def test_the_report_has_one_picture(league):
    written = {file.name for file in artifacts.write_report(league)}
    assert written == {"table.md", "table.csv", "compare.json", "pareto.png"}


def test_a_league_whose_full_system_has_not_finished_has_no_points(league):
    for file in league.glob("llava-*/result.json"):
        file.unlink()
    found = compare.compare_study(league)
    assert {line.share for line in found.league.lines} == {None}
    assert artifacts.write_report(league)


def test_eighty_labels_stand_apart():
    draw = random.Random(0)
    points = [(x * draw.uniform(1, 1.02), draw.uniform(0.3, 0.9)) for x in (25, 35, 55)] * 9
    points = [(x, y + draw.uniform(-0.2, 0.2)) for x, y in points]
    with style.drawing(12.5, 9) as (_, axes):
        axes.set_xscale("log")
        axes.set_xlim(20, 120)
        axes.set_ylim(0, 1.1)
        bars = [(x, y - 0.01, y + 0.01) for x, y in points]
        labels = [f"System {i}" for i in range(len(points))]
        assert crowd.label_crowd(axes, points, bars, labels, ["black"] * len(points)) == 0
        texts = [text for text in axes.texts if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
