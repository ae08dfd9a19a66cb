"""search.json: what is read of it, what is refused, and what follows: frontier, area, null line."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.errors import LabError
from eramv_lab.report import frontier as edge
from eramv_lab.report.search import Search
from eramv_lab.report.search_file import read_search

Write = Callable[..., Path]
Trial = Callable[..., dict]
REFERENCE = {"accuracy": 0.0, "prefill_tflops": 100e-6, "said": "all patches"}


def search_of(folder: Path) -> Search:
    search = read_search(folder)
    assert search is not None
    return search


def numbers(trials: list) -> list[int]:
    return [trial.number for trial in trials]


def test_what_the_file_says(tmp_path: Path, write_search: Write):
    search = search_of(write_search(tmp_path))
    assert search.study == "band_search" and len(search.trials) == 24
    assert [(g.metric, g.maximize) for g in search.goals] == [("accuracy", True)]
    assert search.budget[0].metric == "prefill_tflops"
    assert search.budget[0].value == pytest.approx(199.6e-6)
    paper = search.by_number[0]
    assert (paper.given, paper.band, paper.anchors, paper.plain) == ("paper", (2, 2), 8, False)
    assert search.by_number[1].band is None and search.by_number[1].plain
    assert "accuracy_low" not in search.by_number[5].row  # pruned: no interval
    assert search.counts == {
        **{"complete": 17, "pruned": 4, "failed": 1, "infeasible": 1, "interrupted": 1},
        "resumed": 1,
    }
    assert search.param_names["model.band.start"] == "band.start"
    assert search.param_names["model.bridge"] == "bridge"
    assert search.finalists[0].mean == pytest.approx(search.finalists[0].values[0] - 0.01)


def test_no_file_is_no_search(tmp_path: Path):
    assert read_search(tmp_path) is None
    assert read_search(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema: expected 1, found 2"),
        ({"study": ""}, "study: expected a name"),
        ({"goals": []}, r"goals: expected one goal or two, found \[\]"),
        ({"goals": [{"metric": "accuracy"}]}, r"goals\[0\].direction is missing"),
        ({"goals": [{"metric": "loss", "direction": "down"}]}, "one of maximize, minimize"),
        ({"goals": [{"metric": "loss", "direction": "minimize"}] * 2}, "both are of the same"),
        ({"goals": "accuracy"}, "goals: expected"),
        ({"budget": [{"name": "money", "limit": 3}]}, r"budget\[0\].name: expected one of prefill"),
        ({"budget": [{"name": "prefill", "limit": "3"}]}, r"budget\[0\].limit: expected a number"),
        ({"budget": {}}, "budget: expected a list of limits"),
        ({"reference": []}, "reference: expected keys and values"),
        ({"spent": {"wall_seconds": "long"}}, "spent.wall_seconds: expected a number"),
        ({"trials": None}, "trials: expected a list of trials, found null"),
        ({"trials": [7]}, "trials: expected a list of trials"),
        ({"trials": [{}]}, r"trials\[0\].number is missing; .*params is missing"),
        ({"best": {"number": -1}}, "best.number: expected a whole number"),
        ({"best": {"changes": {}}}, "best.number is missing"),
        ({"finalists": [{"number": 0, "values": ["x"]}]}, r"finalists\[0\].values: expected"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, write_search: Write, changes: dict, message: str):
    with pytest.raises(LabError, match=message) as caught:
        read_search(write_search(tmp_path, **changes))
    assert "search.json is not a search: " in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("state", "done", "state: expected one of complete, pruned"),
        ("state", ["complete"], "state: expected one of"),
        ("number", 1.5, "number: expected a whole number"),
        ("number", True, "number: expected a whole number"),
        ("label", None, "label: expected a name"),
        ("params", [], "params: expected keys and values"),
        ("values", [None, "0.9"], "values: expected numbers"),
        ("accuracy", "0.9", "accuracy: expected a number"),
        ("band_start", -1, "band_start: expected a whole number"),
        ("plain", 1, "plain: expected true or false"),
        ("error", {"message": "x"}, "error: expected a text"),
    ],
)
def test_a_wrong_trial_is_said(
    tmp_path: Path, write_search: Write, search_trial: Trial, key: str, value: object, message: str
):
    trials = [search_trial(0, 2, 2, 8), search_trial(1, 2, 2, 8) | {key: value}]
    with pytest.raises(LabError, match=rf"trials\[1\].{message}"):
        read_search(write_search(tmp_path, trials=trials))


def test_many_faults_are_cut_and_a_number_is_there_once(
    tmp_path: Path, write_search: Write, search_trial: Trial
):
    with pytest.raises(LabError, match=r"; and 22 more$"):
        read_search(write_search(tmp_path, trials=[{"label": ""}] * 6 + [{}] * 2))
    with pytest.raises(LabError, match="trials: 3 is there twice"):
        read_search(write_search(tmp_path, trials=[search_trial(3, 1, 1, 4)] * 2))


@pytest.mark.parametrize("text", ["", "[]", "{", '"search"', "[" * 100_000, "9" * 5000, "\ufeff{}"])
def test_what_is_no_search_at_all(tmp_path: Path, text: str):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(LabError, match=r"search\.json (cannot be read|is not a search)"):
        read_search(tmp_path)


def test_keys_that_may_be_missing(tmp_path: Path, write_search: Write):
    folder = write_search(tmp_path)
    least = {
        "schema": 1,
        "study": "s",
        "goals": [{"metric": "accuracy", "direction": "maximize"}],
        "trials": [{"number": 4, "label": "t004", "state": "waiting", "params": {}}],
    }
    (folder / "search.json").write_text(json.dumps(least))
    search = search_of(folder)
    assert search.best is None and search.trials[0].row == {} and search.budget == []
    assert edge.frontier(search) == [] and edge.hypervolume(search) is None
    (folder / "search.json").write_text(json.dumps(least | dict.fromkeys(("best", "budget"))))
    assert search_of(folder).best is None


def test_numbers_that_are_none(tmp_path: Path, write_search: Write, search_trial: Trial):
    """NaN, infinities and what no float holds count as not known."""
    trials = [
        search_trial(0, 2, 2, 8, accuracy=math.nan, values=[math.nan]),
        search_trial(1, 2, 2, 8, prefill_tflops=math.inf),
        search_trial(2, 2, 2, 8, prefill_tflops=10**400),
        search_trial(3, 2, 2, 8, prefill_tflops=0),
        search_trial(4, 2, 2, 8, prefill_tflops=-1.0),
        search_trial(5, 2, 2, 8),
    ]
    budget = [{"name": "prefill", "limit": math.nan, "said": "x"}]
    search = search_of(write_search(tmp_path, trials=trials, budget=budget, best={"number": 77}))
    assert numbers(edge.frontier(search)) == [5]
    assert search.budget == [] and search.best is None
    assert "accuracy" not in search.by_number[0].row
    assert numbers(search.ranked()) == [1, 2, 3, 4, 5]


def test_frontier_is_what_no_other_is_better_than(
    tmp_path: Path, write_search: Write, search_trial: Trial
):
    def at(number: int, price: float, accuracy: float, state: str = "complete") -> dict:
        made = search_trial(number, 1, 1, 4, state=state)
        return made | {"prefill_tflops": price, "accuracy": accuracy, "values": [accuracy]}

    trials = [
        at(0, 2e-5, 0.5),
        at(1, 1e-5, 0.4),
        at(2, 3e-5, 0.5),  # as good, dearer
        at(3, 4e-5, 0.9),
        at(4, 4e-5, 0.8),  # as dear, worse
        at(5, 4e-5, 0.9),  # the same place, later
        at(6, 1e-6, 0.99, "pruned"),
        at(7, 1e-6, 0.99, "infeasible"),
        at(8, 1e-6, 0.99, "failed"),
        at(9, 1e-6, 0.99, "interrupted"),
    ]
    search = search_of(write_search(tmp_path, trials=trials, reference=REFERENCE))
    assert numbers(edge.frontier(search)) == [1, 0, 3]
    assert numbers(search.ranked()) == [3, 5, 4, 0, 2, 1]
    by_hand = (
        math.log10(10) * 0.4 + math.log10(100 / 20) * 0.1 + math.log10(100 / 40) * 0.4
    )  # tall by wide, one rectangle per point
    assert edge.hypervolume(search) == pytest.approx(by_hand)
    nearer = REFERENCE | {"prefill_tflops": 3e-5, "accuracy": 0.45}
    search = search_of(write_search(tmp_path, trials=trials, reference=nearer))
    assert edge.hypervolume(search) == pytest.approx(math.log10(1.5) * 0.05)


def test_hypervolume_against_counting(tmp_path: Path, write_search: Write):
    search = search_of(write_search(tmp_path))
    corner = edge.reference(search)
    places = [p for t in edge.frontier(search) if (p := edge.place(search, t))]
    assert corner is not None
    steps = 1500
    low = min(p.cost for p in places)
    width = (corner.cost - low) / steps
    heights = (
        max((p.gain for p in places if p.cost <= low + (i + 0.5) * width), default=0)
        for i in range(steps)
    )
    assert edge.hypervolume(search) == pytest.approx(sum(heights) * width, rel=2e-3)


@pytest.mark.parametrize(
    "reference",
    [None, {}, {"accuracy": 0}, {"accuracy": "0", "prefill_tflops": 1}]
    + [{"accuracy": 0.0, "prefill_tflops": bad} for bad in (0, -1, math.nan, math.inf, True)],
)
def test_no_hypervolume_without_a_sound_reference(
    tmp_path: Path, write_search: Write, reference: object
):
    assert edge.hypervolume(search_of(write_search(tmp_path, reference=reference))) is None


def test_two_goals(tmp_path: Path, write_search: Write):
    latency = {"metric": "latency_ms", "direction": "minimize"}
    accuracy = {"metric": "accuracy", "direction": "maximize"}
    flops = {"metric": "prefill_tflops", "direction": "minimize"}
    for goals, names in (
        ([accuracy, latency], ("accuracy", "latency_ms")),
        ([flops, accuracy], ("accuracy", "prefill_tflops")),
        ([flops], ("accuracy", "prefill_tflops")),
        ([latency, flops], ("latency_ms", "prefill_tflops")),
        ([{"metric": "loss", "direction": "minimize"}], ("loss", "prefill_tflops")),
    ):
        search = search_of(write_search(tmp_path, goals=goals))
        assert tuple(goal.metric for goal in search.axes) == names
        assert edge.frontier(search)
    values = [search.value(trial, "loss") for trial in edge.frontier(search)]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]


def test_a_metric_of_which_only_the_value_was_told(
    tmp_path: Path, write_search: Write, search_trial: Trial
):
    goals = [{"metric": "accuracy_digit", "direction": "maximize"}]
    trials = [search_trial(0, 1, 1, 4, values=[0.3]), search_trial(1, 1, 1, 4, values=[])]
    search = search_of(write_search(tmp_path, trials=trials, goals=goals))
    assert search.value(search.trials[0], "accuracy_digit") == 0.3
    assert numbers(edge.frontier(search)) == [0]


def test_null_line(tmp_path: Path, write_search: Write, search_trial: Trial):
    def at(number: int, price: float, accuracy: float, **more: object) -> dict:
        made = search_trial(number, None if more.get("plain") else 1, 1, 4, **more)
        return made | {"prefill_tflops": price, "accuracy": accuracy, "values": [accuracy]}

    trials = [
        at(0, 1e-5, 0.2, plain=True),
        at(1, 1e-3, 0.6, plain=True),
        at(2, 1e-4, 0.1, plain=True),  # worse than a cheaper one: not on the line
        at(3, 1e-4, 0.45),
        at(4, 1e-4, 0.39),
        at(5, 1e-6, 0.9),  # cheaper than any plain one: nothing to compare with
        at(6, 1e-2, 0.7),
        at(7, 1e-4, 0.9, state="pruned"),
    ]
    search = search_of(write_search(tmp_path, trials=trials))
    assert numbers(edge.null_curve(search)) == [0, 1]
    assert edge.null_at(search, search.by_number[3]) == pytest.approx(0.4)  # half way by log10
    assert edge.null_at(search, search.by_number[5]) is None
    assert edge.null_at(search, search.by_number[6]) == 0.6
    beat, among = edge.above_null(search)
    assert [(round(margin, 6), t.number) for margin, t in beat] == [(0.1, 6), (0.05, 3)]
    assert among == 3
