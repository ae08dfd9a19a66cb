"""Captions have columns of their own, and accuracy is of the other questions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.evaluate.statistics import accuracy, paired_difference
from eramv_lab.report import table
from eramv_lab.report.compare import compare_study
from eramv_lab.report.plain import to_plain

Write = Callable[..., Path]


def caption(folder: Path, right: float) -> list[float]:
    """Let every fourth question of a fit have been a caption; returns the F1 of each."""
    file = folder / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found: list[float] = []
    for number, line in enumerate(lines):
        if number % 4 == 3:
            found.append(right if number % 8 == 3 else 1.0)
            scores = {"cider": 10 * found[-1], "facts": {"f1": found[-1]}}
            line.update(type="caption", caption={"references": ["star 5"], **scores})
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return found


@pytest.fixture
def study(tmp_path: Path, write_study: Write) -> Path:
    return write_study(tmp_path, arms=("eramv", "llava"), seeds=(0, 1), images=20)


def test_captions_stand_apart(study: Path) -> None:
    plain = compare_study(study).arms[0]
    told = {
        arm: [caption(study / f"{arm}-s{seed}-a1b2c3d4", right) for seed in (0, 1)]
        for arm, right in (("eramv", 0.5), ("llava", 0.25))
    }
    found = compare_study(study)
    first, other = found.arms
    assert "caption" not in found.types and first.accuracy and plain.accuracy
    assert (first.accuracy.n, plain.accuracy.n) == (120, 160)
    images = [f"{n // 2:04d}" for n in range(40)]
    assert first.captions["facts"].estimate == accuracy(told["eramv"], images)
    assert first.captions["facts"].difference is None
    apart = paired_difference(told["llava"], told["eramv"], images)
    assert other.captions["facts"].difference == apart
    assert other.captions["cider"].estimate.mean == pytest.approx(6.25)
    assert other.captions["cider"].difference.high == pytest.approx(10 * apart.high)  # type: ignore[union-attr]
    text = table.markdown(found)
    assert "| CIDEr-D | 95 % interval | vs eramv |" in text and "| facts | 95 %" in text
    assert "| 625 | " in text and "| −125 |" in text and "| −0.125 |" in text
    assert "cider,cider_low" in table.as_csv(found)
    assert to_plain(found)["arms"]["llava"]["captions"]["facts"]["difference"]["mean"] == -0.125


def test_without_the_first_arm_nothing_is_compared(tmp_path: Path, write_study: Write) -> None:
    arms = ("eramv", "llava", "fastv")
    unfinished = [("eramv", 0)]
    study = write_study(tmp_path, arms=arms, seeds=(0,), leave_out=unfinished, images=20)
    for arm in arms[1:]:
        caption(study / f"{arm}-s0-a1b2c3d4", 0.5)
    found = compare_study(study)
    scores = [arm.captions["facts"] for arm in found.arms[1:]]
    assert [score.difference for score in scores] == [None, None]
    text = table.markdown(found)
    assert "| facts |" in text and "vs eramv" not in text
    assert "- eramv has not finished: nothing is compared with it." in text


def test_without_captions_nothing_is_told(study: Path) -> None:
    found = compare_study(study)
    assert not any(arm.captions for arm in found.arms)
    assert "CIDEr" not in table.markdown(found)


def test_captions_alone_have_an_accuracy(study: Path) -> None:
    for folder in study.glob("*-s*"):
        file = folder / "predictions.jsonl"
        lines = [json.loads(line) | {"type": "caption"} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    first = compare_study(study).arms[0]
    assert first.accuracy and first.accuracy.n == 160 and first.captions == {}
