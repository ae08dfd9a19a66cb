"""A sweep in one file: the same wherever it lies, whatever it was written over."""

from pathlib import Path

import pytest
import yaml

from eramv_lab.errors import UserError
from eramv_lab.sweep.load import load_sweep

SWEEP = """\
question: Where?
goal: {accuracy: max}
budget: {prefill: {share: 0.5, of: all}, kv: 1e6}
search:
  model.bridge: [none, {type: low_rank, rank: 4}]
  model.band.length: {from: 0, to: 4}
  model.band.start: {from: 0, to: 5}
  model.anchors.count: {from: 0, to: 31, take: largest}
  train.lr: {from: 1e-4, to: 1e-2, log: true}
trials: 9
begin_with: {first: paper, plain: {model.band.length: 0, model.anchors.count: largest}}
sampler: {type: tpe, n_startup_trials: 3}
pruner: {type: median, n_warmup_steps: 5}
finalists: 1
heartbeat: {every: 5, grace: 20}
launcher: {type: local}
"""


def test_the_plain_form_is_the_same_sweep_from_anywhere(write, tmp_path, monkeypatch):
    first = load_sweep(write(SWEEP), ["trials=7", "search.model.band.start.to=4"])
    there = tmp_path / "far" / "away"
    there.mkdir(parents=True)
    (there / "sweep.yaml").write_text(yaml.safe_dump(first.to_plain(), sort_keys=False))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_sweep(there / "sweep.yaml")
    assert again.identity() == first.identity()
    same = ("given", "settings", "goals", "domains", "sampler", "pruner", "launcher", "seeds")
    for name in same:
        assert getattr(again, name) == getattr(first, name), name
    assert [(one.name, one.value) for one in again.limits] == [
        (one.name, one.value) for one in first.limits
    ]
    assert again.settings.trials == 7 and again.domains["model.band.start"].high == 4
    assert again.to_plain() == first.to_plain() | {"budget": again.to_plain()["budget"]}


def test_a_base_is_found_from_anywhere(tmp_path, monkeypatch):
    here = Path(__file__).parents[2]
    monkeypatch.chdir(here)
    first = load_sweep("sweeps/band_search.yaml")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(first.to_plain(), sort_keys=False))
    again = load_sweep(tmp_path / "sweep.yaml")
    assert again.identity() == first.identity() and again.given == first.given
    assert [one.name for one in again.given][:2] == ["paper", "plain"]


def test_one_seed_is_a_list_of_one(write):
    path = write(SWEEP + "seeds: [3]\n")
    text = Path("small.yaml").read_text()
    Path("small.yaml").write_text(text.replace("seeds: [0, 1]", "seed: 3"))
    Path(path).write_text(Path(path).read_text().replace("seeds: [3]\n", ""))
    sweep = load_sweep(path)
    assert sweep.seeds == (3,)
    Path("plain.yaml").write_text(yaml.safe_dump(sweep.to_plain(), sort_keys=False))
    assert load_sweep("plain.yaml").identity() == sweep.identity()


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("goal=loss", {"goal"}),
        ("budget.kv=2e6", {"budget.kv"}),
        ("search.model.band.start.to=3", {"search.model.band.start"}),
        ("train.steps=30", {"recipe"}),
        ("seeds=[1]", {"seed"}),
        ("trials=30", set()),
        ("sampler=random", set()),
        ("finalists=3", set()),
    ],
)
def test_what_trials_must_share(write, override, changed):
    before, now = (
        load_sweep(write(SWEEP)).identity(),
        load_sweep("search.yaml", [override]).identity(),
    )
    assert {k for k in before.keys() | now.keys() if before.get(k) != now.get(k)} == changed


def test_arms_that_are_not_named_are_not_looked_at(write):
    path = write("search.model.anchors.count: {from: 0, to: 9}\narms.bad.model.bridge: mpl\n")
    assert load_sweep(path).given == ()
    with pytest.raises(UserError, match="mpl"):
        load_sweep(path, ["begin_with=[bad]"])


def test_a_search_scores_on_the_split_that_is_for_it(write):
    sweep = load_sweep(write("search.model.anchors.count: {from: 0, to: 9}\n"))
    assert sweep.arm("one", {}).evaluate.split == "val"
    assert sweep.arm("one", {}, split="test").evaluate.split == "test"


def test_check_tells_what_a_sweep_may_try(write, capsys, monkeypatch):
    from eramv_lab import cli

    monkeypatch.setattr("sys.argv", ["eramv-lab", "check", write(SWEEP), "trials=12"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == [
        *(
            lines[0],
            "budget",
            "budget",
            *["search"] * 5,
            "settings",
            "first",
            "first",
            "goal",
            "ok",
        ),
    ]
    assert "search: model.anchors.count: 0 to 31, the largest that fits" in lines
    assert "settings: not counted" in lines and "sampler tpe, pruner median" in lines[-2]
    assert lines[-1] == "ok: search.yaml, 12 trials, 1 finalist(s), seeds 0, 1"
