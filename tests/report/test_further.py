"""Further held-out sets and the share that learns, in every form of a comparison."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.report import table
from eramv_lab.report.artifacts import write_report
from eramv_lab.report.compare import compare_study
from eramv_lab.report.plain import to_plain

Write = Callable[..., Path]


def further(folder: Path, share: float, questions: int = 40, word: str = "red") -> None:
    """Let a finished fit have answered `questions` of the set `old` on ten images."""
    lines = [
        {
            "key": f"{n % 10}-{n}",
            "image": f"{n % 10}",
            "type": "digit",
            "question": f"what digit in {word} star",
            "answer": "7",
            "score": int(n < share * questions),
        }
        for n in range(questions)
    ]
    (folder / "predictions_old.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    change(folder, lambda r: r.update(also={"old": {"accuracy": share, "n": questions}}))
    change(folder, lambda r: r["row"].update(accuracy_old=share))


def change(folder: Path, how: Callable[[dict], None]) -> None:
    file = folder / "result.json"
    result = json.loads(file.read_text())
    how(result)
    file.write_text(json.dumps(result))


@pytest.fixture
def study(tmp_path: Path, write_study: Write) -> Path:
    study = write_study(tmp_path, arms=("eramv", "no_bridge", "llava"), seeds=(0, 1), images=20)
    for seed, share in ((0, 0.75), (1, 0.5)):
        further(study / f"eramv-s{seed}-a1b2c3d4", share)
        further(study / f"no_bridge-s{seed}-a1b2c3d4", 0.25)
    return study


def test_each_arm_has_its_accuracy_and_interval_on_the_set(study: Path) -> None:
    found = compare_study(study)
    assert found.also == ["old"]
    one = found.arms[0].also["old"]
    assert (one.mean, one.n, one.clusters, one.seeds) == (0.625, 40, 10, 2)
    assert one.low < 0.625 < one.high
    assert found.arms[2].also == {}
    columns = {c.head: c.cells for group in table.groups(found) for c in group}
    assert columns["accuracy old"] == ["0.625", "0.250", "–"]
    plain = to_plain(found)["arms"]["no_bridge"]
    assert plain["also"]["old"]["mean"] == 0.25 and "accuracy_old" not in plain["cost"]


def test_it_stands_in_the_files_and_may_be_expected(study: Path) -> None:
    about = json.loads((study / "study.json").read_text())
    about["expect"] = {"eramv": {"accuracy_old": ">= 0.9"}}
    (study / "study.json").write_text(json.dumps(about))
    write_report(study)
    head, first, *_ = (study / "table.csv").read_text().splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert float(row["accuracy_old"]) == 0.625 and row["n_old"] == "40"
    assert float(row["accuracy_old_low"]) < 0.625 < float(row["accuracy_old_high"])
    text = (study / "table.md").read_text()
    assert "accuracy old" in text
    assert "MISSED: eramv accuracy_old >= 0.9, found 0.625" in text


def test_other_questions_are_not_compared(study: Path) -> None:
    further(study / "no_bridge-s1-a1b2c3d4", 0.25, word="blue")
    found = compare_study(study)
    assert found.arms[1].also == {} and found.arms[0].also
    assert "no_bridge: was asked other questions of old, so it has none here" in found.notes


def test_the_share_that_learns_is_shown_where_it_is_not_the_same(study: Path) -> None:
    assert "trainable" not in {c.head for g in table.groups(compare_study(study)) for c in g}
    for folder in study.glob("no_bridge-*"):
        change(folder, lambda r: r["recipe"]["train"].update(roles={"language": "frozen"}))
        change(folder, lambda r: r["row"].update(trainable=81_126))
    for folder in study.glob("llava-*"):
        change(folder, lambda r: r["row"].update(train_pflops=0.0))
    (column,) = (c for g in table.groups(compare_study(study)) for c in g if c.head == "trainable")
    assert column.cells == ["100.0%", "10.0%", "0.0%"]


def test_an_older_result_that_lacks_a_later_key_is_of_the_same_recipe(study: Path) -> None:
    change(study / "eramv-s1-a1b2c3d4", lambda r: r["recipe"].update(base={"model": "none"}))
    found = compare_study(study)
    assert found.arms[0].seeds == [0, 1] and not any("older" in note for note in found.notes)
