"""A whole sweep, tiny: searched, concluded, shown; the same call again does nothing."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.sweep.trial import TRIALS
from eramv_lab.train.files import read_json
from tests.sweep import tiny


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> tuple[Path, str]:
    """The sweep's file, and what its first call said."""
    pruner = {"type": "percentile", "percentile": 1.0, "n_startup_trials": 2}
    file = tiny.write(tmp_path_factory.mktemp("run"), tiny_data, pruner=pruner)
    code, said = tiny.run(file, workers=1)
    assert code == 0, said
    return file, said


def results(root: Path) -> dict[str, int]:
    """When each result, each report and the runs of MLflow were written."""
    names = ("result.json", "search.json", "table.md", "pareto.html")
    found = [path for name in names for path in root.rglob(name)]
    return {str(path): path.stat().st_mtime_ns for path in [*found, root.parent / "mlflow.db"]}


def test_search_finals_and_report(done: tuple[Path, str]) -> None:
    file, said = done
    root = file.parent / "runs" / "tiny"
    assert tiny.states(root) == {"complete": 3, "pruned": 1}
    assert "Best found" in said and "plain_anchors s0" in said and "charts:" in said
    found = read_json(root / "search.json")
    assert found is not None
    assert [t["given"] for t in found["trials"]] == ["paper", None, None, None]
    assert len({t["hash"] for t in found["trials"]}) == 4
    whole = [t for t in found["trials"] if t["state"] == "complete"]
    assert all(t["values"] == [t["loss"]] and t["step"] == tiny.STEPS for t in whole)
    (pruned,) = (t for t in found["trials"] if t["state"] == "pruned")
    assert pruned["values"] is None and pruned["step"] == 2 and pruned["accuracy"] is not None
    assert found["best"]["number"] == min(whole, key=lambda t: t["values"])["number"]
    assert [one["seeds"] for one in found["finalists"]] == [[0]]
    assert found["spent"]["wall_seconds"] > 0 and found["startup_seconds"]["median"] > 0
    for name in ("pareto.html", "search.png", "trials.csv", "table.md", "study.json"):
        assert (root / name).exists()
    assert not list(root.rglob("error*.txt"))
    assert not list(root.rglob("checkpoints"))


def test_nothing_is_trained_twice(done: tuple[Path, str]) -> None:
    root = done[0].parent / "runs" / "tiny"
    folders = [path.parent for path in root.glob(f"{TRIALS}/*/result.json")]
    assert [tiny.stints(folder) for folder in folders] == [[0]] * 3
    recipe = load_recipe(root / "best.yaml")
    assert recipe.seeds == (0,) and "plain_anchors" in recipe.arms
    trained = Counter()
    for path in root.glob("*/result.json"):
        result = read_json(path)
        assert result is not None and result["recipe"]["evaluate"]["split"] == "test"
        trained[result["arm"], result["trained_in"] is not None] += 1
        if result["trained_in"] is not None:  # the same weights, other questions
            its, own = (
                load_file(folder / "model.safetensors")
                for folder in (Path(result["trained_in"]), path.parent)
            )
            assert all(torch.equal(its[name], own[name]) for name in its)
    assert trained["best", True] == trained["paper", True] == 1


def test_mlflow_shows_every_trial_closed(done: tuple[Path, str]) -> None:
    parent, below = tiny.tracked(done[0].parent / "runs" / "tiny")
    assert {run.info.status for run in [parent, *below]} == {"FINISHED"}
    kinds = Counter(run.data.tags["eramv.kind"] for run in below)
    assert kinds == {"trial": 4, "fit": 3}
    trials = [run for run in below if run.data.tags["eramv.kind"] == "trial"]
    states = Counter(run.data.tags["eramv.state"] for run in trials)
    assert states == {"complete": 3, "pruned": 1}
    assert {run.data.tags["feasible"] for run in trials} == {"true"}
    names = sorted(run.info.run_name or "" for run in trials)
    assert [name[:4] for name in names] == ["t000", "t001", "t002", "t003"]
    assert names[0].startswith("t000 paper s1 n2 a3")
    assert all("loss" in run.data.metrics for run in trials)


def test_the_same_call_again_does_nothing(done: tuple[Path, str]) -> None:
    file, _ = done
    before = results(file.parent / "runs" / "tiny")
    code, said = tiny.run(file, workers=1)
    assert code == 0 and "all 4 trials were done before" in said and "Best found" in said
    assert results(file.parent / "runs" / "tiny") == before


@pytest.mark.slow
def test_two_more_trials(done: tuple[Path, str]) -> None:
    file, _ = done
    root = file.parent / "runs" / "tiny"
    before = results(root)
    code, said = tiny.run(file, workers=1, more="+2")
    assert code == 0 and "6 trials, 4 of them before" in said, said
    assert sum(tiny.states(root).values()) == 6
    kept = [name for name in before if name.endswith("result.json")]
    assert {name: results(root)[name] for name in kept} == {name: before[name] for name in kept}
    assert (root / "trials.csv").read_text().count("\n") == 7
    parent, _ = tiny.tracked(root)
    assert parent.info.status == "FINISHED"
    code, said = tiny.run(file, workers=1)
    assert code == 0 and "all 6 trials were done before" in said
