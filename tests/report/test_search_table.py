"""The report of a search in words, tables and CSV, with everything, with little, with nothing."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.report import search_table, search_words
from eramv_lab.report.numbers import duration
from eramv_lab.report.search import Search
from eramv_lab.report.search_file import read_search

Write = Callable[..., Path]
Trial = Callable[..., dict]


def search_of(folder: Path) -> Search:
    search = read_search(folder)
    assert search is not None
    return search


def shown(search: Search, width: int = 150) -> str:
    text = io.StringIO()
    search_table.show(search, text, width)
    return text.getvalue()


def test_report_says_what_was_found_and_what_it_took(tmp_path: Path, write_search: Write):
    search = search_of(write_search(tmp_path))
    text = " ".join(search_table.markdown(search).split())
    for sentence in (
        "Best found: t007 s1 n2 a32, accuracy 0.888 (0.868 to 0.908 on 1200 questions), "
        "prefill 112 MFLOPs. Setting: band.start 1, band.length 2, anchors.count 32, bridge none",
        "mean 0.878 over 3 seeds (0.888, 0.878, 0.868); 0.888 when it was found.",
        "14 of 14 settings stand above plain anchors at their own price",
        "Plain anchors reach 0.582 at the price of t007 s1 n2 a32, outside of its 95 % interval.",
        "## The best 10 of 17 finished trials, by accuracy",
        "24 asked for: 17 complete, 4 pruned, 1 failed, 1 infeasible, 1 interrupted; "
        "1 trial went on where an earlier one was cut off.",
        "within prefill 200 MFLOPs (0.46 of llava).",
        "Searched by: sampler gp, pruner percentile, 1 234 settings in the space, seed 0.",
        "Spent: 15 min by the clock, 25 min of trials, 120 TFLOPs of training.",
        "until its first step: 0.40 s (9.0 s for the first).",
        "from the reference point (accuracy 0.000, prefill 434 MFLOPs: accuracy 0 at the price",
        "Failed: t010 s1 n3 a8: LabError: a NaN loss",
    ):
        assert sentence in text
    assert "on val; that of the arms of the study is on test" in text


@pytest.mark.parametrize("width", [60, 100, 300])
def test_nothing_is_cut_at_any_width(tmp_path: Path, write_search: Write, width: int):
    search = search_of(write_search(tmp_path))
    text = shown(search, width)
    assert "…" not in text and "Best found" in text and "The frontier" in text
    for block in search_table.tables(search):
        for column in [block.names, *(c for group in block.groups for c in group)]:
            assert all(cell in text for cell in column.cells)


def test_nothing_finished(tmp_path: Path, write_search: Write, search_trial: Trial):
    trials = [search_trial(0, 1, 1, 4, state="failed"), search_trial(1, 1, 1, 4, state="running")]
    changes = {"best": None, "finalists": [], "importance": {}}
    search = search_of(write_search(tmp_path, trials=trials, **changes))
    text = shown(search)
    assert "No trial has finished (24 asked for: 1 failed, 1 running)" in text
    assert "Failed: t000 s1 n1 a4: no reason is known" in text
    assert search_table.tables(search) == []
    assert "No trial has finished:" in shown(search_of(write_search(tmp_path, count=0)))


def test_no_setting_beat_plain_anchors(tmp_path: Path, write_search: Write, search_trial: Trial):
    plain = search_trial(0, None, None, 4)
    dear = search_trial(1, 1, 2, 4, accuracy=0.1, values=[0.1])
    cheap = dear | {"number": 2, "label": "t002", "prefill_tflops": 1e-6}

    def said(*trials: dict) -> str:
        made = write_search(tmp_path, trials=list(trials), best=None, finalists=[])
        return " ".join(search_words.findings(search_of(made)))

    assert "No setting beat plain anchors at its own price (1 setting compared)." in said(
        plain, dear, cheap
    )
    assert "none costs as much as they do" in said(plain, cheap)
    assert "No plain anchors were tried" in said(dear)
    assert "No plain anchors have finished" in said(plain | {"state": "failed"}, dear)
    assert "Nothing was chosen" in said(dear)


def test_two_goals_have_no_single_best(tmp_path: Path, write_search: Write):
    goals = [
        {"metric": "accuracy", "direction": "maximize"},
        {"metric": "latency_ms", "direction": "minimize"},
    ]
    search = search_of(write_search(tmp_path, goals=goals, best=None, budget=[]))
    text = shown(search)
    assert "Two goals have no single best: 4 trials on the frontier." in text
    assert "The frontier: accuracy against latency" in text
    assert "accuracy as high as can be and latency as low as can be; no budget." in text
    assert "no reference point is stored for these goals" in text


def test_finalists_without_their_seeds(tmp_path: Path, write_search: Write):
    finalists = [
        {"number": 7, "label": "t007", "seeds": [0, 1, 2], "values": [0.9, None, None]},
        {"number": 6, "seeds": [0, 1], "values": None},
        {"number": 99, "label": "gone", "seeds": [0, 1], "values": [0.5, 0.7]},
    ]
    text = shown(search_of(write_search(tmp_path, finalists=finalists)), 200)
    assert "Finalist t007: mean 0.900 over 1 seed (0.900), without seed 1, 2." in text
    assert "Finalist t006: mean – over 0 seeds (none finished), without seed 0, 1." in text
    assert "Finalist gone: mean 0.600 over 2 seeds (0.500, 0.700)." in text


def test_csv_has_every_trial_and_every_column(tmp_path: Path, write_search: Write):
    search = search_of(write_search(tmp_path))
    rows = list(csv.DictReader(io.StringIO(search_table.as_csv(search))))
    assert len(rows) == 24 and [int(row["number"]) for row in rows] == list(range(24))
    first = rows[0]
    assert (first["given"], first["frontier"], first["state"]) == ("paper", "1", "complete")
    assert float(first["prefill_tflops"]) == search.trials[0].row["prefill_tflops"]
    assert (first["model.band.start"], first["model.bridge"]) == ("2", "mlp")
    assert float(first["train.lr"]) == 3e-4
    assert rows[1]["model.band.start"] == "" and rows[5]["accuracy_low"] == ""
    assert rows[10]["error"].endswith("LabError: a NaN loss")
    assert {"goal_accuracy", "band_start", "resumed", "hash", "latency_ms"} <= set(first)


def test_settings_of_any_kind(tmp_path: Path, write_search: Write, search_trial: Trial):
    params = {
        "model.band": {"layers": [2, 3]},
        "model.on": True,
        "number": 5,
        "a|b": "x | y\nz",
        "none": None,
    }
    search = search_of(write_search(tmp_path, trials=[search_trial(0, 1, 1, 4, params=params)]))
    row = next(csv.DictReader(io.StringIO(search_table.as_csv(search))))
    assert row["model.on"] == "true" and row["model.band"] == "layers=2, 3"
    assert row["number"] == "0" and row["params.number"] == "5"
    lines = search_table.markdown(search).splitlines()
    assert any("x \\| y z" in line for line in lines)


def test_durations():
    given = (None, 0.4, 41.2, 99, 100, 900, 7199, 7500, 90_000)
    assert [duration(seconds) for seconds in given] == [
        *("–", "0.40 s", "41 s", "99 s", "2 min", "15 min", "2 h 00 min", "2 h 05 min"),
        "25 h 00 min",
    ]
