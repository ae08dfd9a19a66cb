"""Notes on where results come from: other commits, other versions, samples left out."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from eramv_lab.report import artifacts, compare, origins

Write = Callable[..., Path]
Notes = Callable[..., list[str]]
ARMS = ("eramv", "llava")
PHOTOS = {"recipe": {"data": {"type": "shards", "shards": {"path": "data/photos"}}}}


@pytest.fixture
def study(tmp_path: Path, write_study: Write) -> Path:
    return write_study(tmp_path, arms=ARMS, seeds=(0, 1), images=2)


@pytest.fixture
def notes(study: Path) -> Notes:
    """notes({(arm, seed): keys of its result}) gives the notes that are new; (): of all runs."""
    before = compare.compare_study(study).notes

    def change(changes: dict) -> list[str]:
        for arm in ARMS:
            for seed in (0, 1):
                file = study / f"{arm}-s{seed}-a1b2c3d4" / "result.json"
                result = json.loads(file.read_text())
                more = changes.get((), {}) | changes.get((arm, seed), {})
                recipe = result["recipe"] | more.get("recipe", {})
                file.write_text(json.dumps(result | more | {"recipe": recipe}))
        return [note for note in compare.compare_study(study).notes if note not in before]

    return change


def skipped(count: int) -> dict:
    samples = [{"id": f"{i}", "file": f"p{i:02}.png", "reason": "too large"} for i in range(count)]
    return {"data": {"skipped": samples, "broken": []}}


def test_runs_of_one_commit_need_no_note(notes: Notes):
    same = {"git": {"commit": "a" * 40, "dirty": True}, "versions": {"torch": "2.9", "numpy": "2"}}
    assert notes({(): same, ("llava", 1): {"versions": {"torch": "2.9", "numpy": "1"}}}) == []


def test_other_commits_and_versions_are_one_line_each(notes: Notes):
    same = {"git": {"commit": "a" * 40}, "versions": {"torch": "2.9", "eramv_lab": "0.1"}}
    found = notes(
        {
            (): same,
            ("eramv", 1): {"git": {"commit": "b" * 40}, "versions": same["versions"]},
            ("llava", 0): {"git": {}, "versions": {"torch": "2.8", "eramv_lab": "0.2"}},
            ("llava", 1): {"git": {}, "versions": {"torch": "2.8", "eramv_lab": "0.1"}},
        }
    )
    assert found == [
        "Results of different commits: aaaaaaaaaa (eramv seed 0); bbbbbbbbbb (eramv seed 1); "
        "unknown (llava)",
        "Results of different versions of eramv_lab: 0.1 (eramv, llava seed 1); 0.2 (llava seed 0)",
        "Results of different versions of torch: 2.9 (eramv); 2.8 (llava)",
    ]


def test_samples_left_out_are_named_once(notes: Notes, study: Path, capsys):
    odd = [
        {"id": "7", "file": "bomb\x1b[31m.png", "reason": "too large"},
        {"id": "8", "file": None, "reason": "no text"},
    ]
    broken = [{"key": f"{key:06}", "reason": "truncated"} for key in (12, 7, 12)]
    every = PHOTOS | {"data": {"skipped": odd, "broken": broken}}
    other = {"data": {"skipped": odd, "broken": broken[::-1][1:]}}  # met in another order
    assert notes({(): every, ("llava", 1): other}) == (
        told := [
            "photos: 2 samples left out at import: 8 (no text), "
            "bomb\N{REPLACEMENT CHARACTER}[31m.png (too large)",
            "photos: 2 samples found broken while reading: 000007 (truncated), 000012 (truncated)",
        ]
    )
    artifacts.write_report(study)
    assert set(told) < set(json.loads((study / "compare.json").read_text())["notes"])
    assert all(f"\n- {note}\n" in (study / "table.md").read_text() for note in told)
    assert compare.main([study.name], study.parent) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(note in printed for note in told)


def test_a_long_list_is_cut_and_one_of_some_runs_says_whose(notes: Notes):
    (note,) = notes({(): PHOTOS | skipped(25)})
    assert note.startswith("photos: 25 samples left out at import: p00.png (too large), p01.png")
    assert note.endswith("p19.png (too large), and 5 more: see result.json")
    (note,) = notes({(): skipped(20)})
    assert note.endswith("p19.png (too large)")
    found = notes({(): {"data": None}, ("eramv", 1): skipped(1), ("llava", 0): skipped(2)})
    assert found == [
        "photos: 1 sample left out at import (eramv seed 1): p00.png (too large)",
        "photos: 2 samples left out at import (llava seed 0): p00.png (too large), "
        "p01.png (too large)",
    ]


def test_of_many_arms_only_the_first_are_named():
    arms = [
        SimpleNamespace(name=f"arm{i}", runs=[SimpleNamespace(folder=Path(f"{i}"), seed=0)])
        for i in range(9)
    ]
    runs = [arm.runs[0] for arm in arms]
    told = origins._whose(arms, runs)
    assert told == "arm0, arm1, arm2, arm3, arm4, and 4 arms more"
    assert origins._whose(arms, runs[:6]) == "arm0, arm1, arm2, arm3, arm4, arm5"
