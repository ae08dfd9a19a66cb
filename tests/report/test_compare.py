"""The comparison from run folders: what is paired, what is missing, what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.errors import LabError, UserError
from eramv_lab.evaluate import statistics
from eramv_lab.report import compare, expect
from eramv_lab.report.plain import to_plain

Write = Callable[..., Path]


def scores(folder: Path) -> list[int]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line)["score"] for line in lines]


def edit(file: Path, change: Callable[[dict], object]) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        change(line)
    file.write_text("\n".join(map(json.dumps, lines)))


def test_json_is_what_the_files_say(tmp_path: Path, write_study: Write, capsys):
    study = write_study(tmp_path)
    assert compare.main(["ablation_ca"], tmp_path, json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["arms"])[:2] == ["eramv", "no_bridge"] and found["reference"] == "eramv"
    own = {
        arm: [scores(study / f"{arm}-s{seed}-a1b2c3d4") for seed in range(3)]
        for arm in ("eramv", "anchors_only")
    }
    images = [f"{i // 8}" for i in range(480)]
    arm = found["arms"]["anchors_only"]
    estimate = statistics.accuracy(own["anchors_only"], images)
    assert arm["accuracy"]["mean"] == pytest.approx(estimate.mean)
    assert (arm["accuracy"]["low"], arm["accuracy"]["high"]) == (estimate.low, estimate.high)
    assert arm["accuracy"]["per_seed"] == [sum(s) / 480 for s in own["anchors_only"]]
    difference = statistics.paired_difference(own["anchors_only"], own["eramv"], images)
    assert arm["difference"]["mean"] == pytest.approx(difference.mean)
    assert arm["difference"]["low"] == pytest.approx(difference.low)
    assert arm["difference"]["p"] < 1e-6 and len(arm["difference"]["mcnemar"]) == 3
    assert found["arms"]["eramv"]["difference"]["mean"] == 0
    assert arm["per_type"]["digit"]["n"] == 120
    assert arm["cost"]["prefill_tflops"] == 35e-6 and arm["cost"]["llm_tflops"] > 0
    assert arm["cost"]["seconds"] == 61


def test_only_what_differs_is_named(tmp_path: Path, write_study: Write):
    found = compare.compare_study(write_study(tmp_path, seeds=(0,)))
    changed = {arm.name: arm.changed for arm in found.arms}
    assert changed["eramv"] == {
        "anchors": "cls_topk",
        "anchors.count": "8",
        "band": "2-3",
        "bridge": "mlp",
        "reducer": "none",
    }
    assert changed["llava"] == {
        "anchors": "all",
        "anchors.count": "–",
        "band": "none",
        "bridge": "none",
        "reducer": "none",
    }
    assert changed["fastv"]["reducer"] == "drop(at=2)"
    plain = {arm.name for arm in found.arms if arm.plain}
    assert plain == {"anchors_only", "equal_flops", "llava"}


def test_missing_seeds_are_named_and_not_averaged_away(tmp_path: Path, write_study: Write):
    study = write_study(tmp_path, arms=("eramv", "llava"), leave_out={("llava", 1), ("llava", 2)})
    (study / "llava-s1-a1b2c3d4").mkdir()  # begun, and broken off
    (study / "llava-s2-a1b2c3d4").mkdir()
    (study / "llava-s2-a1b2c3d4" / "error.txt").touch()
    found = compare.compare_study(study)
    eramv, llava = found.arms
    assert eramv.seeds == [0, 1, 2] and llava.seeds == [0]
    assert llava.missing == {1: "not finished", 2: "failed"}
    assert llava.difference is not None and llava.difference.seeds == [0]
    assert "llava: left out of its mean: seed 1 (not finished), seed 2 (failed)" in found.notes


def test_an_arm_without_any_seed(tmp_path: Path, write_study: Write):
    study = write_study(
        tmp_path, arms=("eramv", "llava"), leave_out={("eramv", s) for s in (0, 1, 2)}
    )
    found = compare.compare_study(study)
    plain = to_plain(found)["arms"]
    assert plain["eramv"]["accuracy"]["mean"] is None
    assert plain["llava"]["difference"]["mean"] is None  # nothing to be compared with
    assert "eramv has not finished: nothing is compared with it." in found.notes


def test_arms_without_a_common_seed(tmp_path: Path, write_study: Write):
    apart = {("eramv", 0), ("llava", 1)}
    study = write_study(tmp_path, arms=("eramv", "llava"), seeds=(0, 1), leave_out=apart)
    found = compare.compare_study(study)
    assert found.arms[1].difference is None
    assert "No seed shared with eramv, so no difference: llava" in found.notes


def test_seeds_of_another_recipe_are_not_put_together(
    tmp_path: Path, write_study: Write, add_fit: Write
):
    study = write_study(tmp_path, arms=("eramv",), seeds=(0, 1))
    newer = add_fit(study, "eramv", 1, digest="bbbbbbbb") / "result.json"
    result = json.loads(newer.read_text())
    result["recipe"]["train"]["steps"] = 400
    result["finished"] = "2026-11-21"
    newer.write_text(json.dumps(result))
    found = compare.compare_study(study)
    assert found.arms[0].seeds == [1] and found.arms[0].missing == {0: "not run"}
    assert "eramv: 2 results of older recipes are left out" in found.notes


def test_older_results_of_many_arms_are_one_note(
    tmp_path: Path, write_study: Write, add_fit: Write
):
    study = write_study(tmp_path, arms=("eramv", "llava"), seeds=(0,))
    for arm in ("eramv", "llava"):
        newer = add_fit(study, arm, 0, digest="bbbbbbbb") / "result.json"
        result = json.loads(newer.read_text()) | {"finished": "2026-11-21"}
        result["recipe"]["train"]["steps"] = 400
        newer.write_text(json.dumps(result))
    left_out = [note for note in compare.compare_study(study).notes if "left out" in note]
    assert left_out == ["2 arms: 2 results of older recipes are left out"]


def test_other_questions_are_refused(tmp_path: Path, write_study: Write):
    study = write_study(tmp_path, arms=("eramv", "llava"), seeds=(0,))
    file = study / "llava-s0-a1b2c3d4" / "predictions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-3]))
    with pytest.raises(UserError, match=r"llava seed 0: 3 missing, 0 more, 0 other") as caught:
        compare.compare_study(study)
    assert "not asked the same questions" in str(caught.value)
    file.write_text("\n".join(lines))
    edit(file, lambda line: line.update(answer="8"))  # the same keys of another data set
    with pytest.raises(UserError, match="480 other questions"):
        compare.compare_study(study)


def test_an_answer_may_hold_a_line_separator(tmp_path: Path, write_study: Write):
    study = write_study(tmp_path, arms=("eramv",), seeds=(0,))
    file = study / "eramv-s0-a1b2c3d4" / "predictions.jsonl"
    file.write_text(file.read_text().replace('"prediction": "7"', '"prediction": "7\u2028"'))
    assert compare.compare_study(study).arms[0].per_seed


def test_broken_predictions_are_named(tmp_path: Path, write_study: Write):
    study = write_study(tmp_path, arms=("eramv",), seeds=(0,), images=1)
    file = study / "eramv-s0-a1b2c3d4" / "predictions.jsonl"
    text = file.read_text()
    scored = text.splitlines()[0].rsplit('"score"', 1)[0] + '"score": {}, "status": "ok"}'
    for broken, message in (
        (text + text.splitlines()[0], r"jsonl:9: the key .* twice"),
        ("{}", r"jsonl:1 is not a scored question: key is missing; .*; score is missing"),
        ("", "jsonl:1 cannot be read"),
        (text + "no json", "jsonl:9 cannot be read"),
        ("[]", r"expected an object, found \[\]"),
        (scored.replace("{}", "1.5"), "score: expected a number from 0 to 1, found 1.5"),
        (scored.replace("{}", "-1"), "found -1"),
        (scored.replace("{}", "NaN"), "found NaN"),
        (scored.replace("{}", '"1"'), 'found "1"'),
        (scored.replace("{}", "true"), "found true"),
    ):
        file.write_text(broken)
        with pytest.raises(LabError, match=message):
            compare.compare_study(study)
    file.write_text("\n".join([scored.replace("{}", "null"), *text.splitlines()[1:]]))
    assert compare.compare_study(study).arms[0].per_seed  # not scored: wrong
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match="jsonl cannot be read"):
        compare.compare_study(study)


SHAPES = [
    ("study.json", "[]", r"study.json is not the plan of a study: expected an object, found \[\]"),
    ("study.json", "{}", "study is missing; arms is missing"),
    ("study.json", {"arms": "abc"}, 'arms: expected names of arms, found "abc"'),
    ("study.json", {"arms": []}, r"found \[\]"),
    ("study.json", {"arms": [["eramv"]]}, r"found \[\["),
    ("study.json", {"seeds": 3, "expect": [1]}, "seeds: .*, found 3; expect: .*, found"),
    ("study.json", {"question": 3}, "question: expected a sentence, found 3"),
    ("study.json", "[" * 100_000, "study.json cannot be read"),
    ("result.json", "[]", r"result.json is not a fit's result: expected an object, found \[\]"),
    ("result.json", "3", "expected an object, found 3"),
    ("result.json", "{}", "study is missing; arm is missing; seed is missing; row is missing"),
    ("result.json", {"arm": None, "seed": "0"}, 'arm: .*, found null; seed: .*, found "0"'),
    ("result.json", {"arm": "llava"}, "of arm llava and seed 0, which is not what its folder"),
    ("result.json", {"seed": 4}, "of arm eramv and seed 4, which is not what its folder"),
    ("result.json", {"row": []}, r"row: expected numbers by name, found \[\]"),
    ("result.json", {"row": {}}, r"row: expected numbers by name, found \{\}"),
    ("result.json", {"row": {"accuracy": "good", "n": 3}}, 'row.accuracy: .*, found "good"'),
    ("result.json", {"row": {"seconds": "3", "n": 3}}, 'row.seconds: .*, found "3"'),
    ("result.json", {"cost": [3], "recipe": "x"}, r"recipe: .*, found \"x\"; cost: .*, found \[3"),
    ("result.json", {"git": "x", "data": [1]}, r"git: .*, found \"x\"; data: .*, found \[1"),
    ("result.json", {"data": {"skipped": 1, "broken": ["x"]}}, r"skipped: .*, found 1; .*broken: "),
    ("result.json", {"recipe": {"model": "x" * 99}}, r"recipe.model: .*, found \"x+\.\.\."),
]


@pytest.mark.parametrize(("name", "change", "message"), SHAPES)
def test_json_of_another_shape_is_one_message(
    tmp_path: Path, write_study: Write, name: str, change: dict | str, message: str
):
    study = write_study(tmp_path, arms=("eramv",), seeds=(0,), images=1)
    file = study / name if name == "study.json" else study / "eramv-s0-a1b2c3d4" / name
    whole = change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change)
    file.write_text(whole)
    with pytest.raises(LabError, match=message) as caught:
        compare.compare_study(study)
    assert str(caught.value).startswith(f"{file}") and "\n" not in str(caught.value)


def test_results_may_lack_what_is_only_shown(tmp_path: Path, write_study: Write, capsys):
    study = write_study(tmp_path, arms=("eramv",), seeds=(0,), images=2)
    file = study / "eramv-s0-a1b2c3d4" / "result.json"
    sparse = {"study": "ablation_ca", "arm": "eramv", "seed": 0, "row": {"seconds": float("nan")}}
    for more in ({}, {"recipe": None, "cost": None}, {"recipe": {"model": {"anchors": {}}}}):
        file.write_text(json.dumps(sparse | more))
        assert compare.main(["ablation_ca"], tmp_path, json=True) == 0
    odd = {"recipe": {"model": {"band": {"layers": ["a", 2]}}}}
    file.write_text(json.dumps(sparse | odd))
    assert compare.main(["ablation_ca/eramv-s0-a1b2c3d4"], tmp_path) == 0


def test_names_that_stand_for_nothing(tmp_path: Path, write_study: Write):
    with pytest.raises(UserError, match="no study yet"):
        compare.main(["ablation_ca"], tmp_path)
    study = write_study(tmp_path, arms=("eramv",), leave_out={("eramv", 0)}, seeds=(0,))
    with pytest.raises(UserError, match="no fit has finished"):
        compare.main(["ablation_ca"], tmp_path)
    with pytest.raises(UserError, match="did you mean: ablation_ca"):
        compare.main(["ablation_cb"], tmp_path)
    (study / "eramv-s0-a1b2c3d4").mkdir()
    with pytest.raises(UserError, match="has not finished"):
        compare.main(["ablation_ca/eramv-s0-a1b2c3d4"], tmp_path)


def test_a_plot_is_refused_by_its_ending_before_any_work(
    tmp_path: Path, write_study: Write, capsys
):
    write_study(tmp_path / "runs", arms=("eramv",), seeds=(0,), images=2)
    for name in ("new/x.xyz", "new/x", "new/x.npz", "new/.png"):
        with pytest.raises(UserError, match=r"--plot: .*\n    allowed: \.png, \.pdf, \.svg"):
            compare.main(["ablation_ca"], tmp_path / "runs", plot=tmp_path / name)
    assert capsys.readouterr().out == "" and not (tmp_path / "new").exists()
    assert compare.main(["ablation_ca"], tmp_path / "runs", plot=tmp_path / "new" / "x.PDF") == 0
    assert (tmp_path / "new" / "x.PDF").read_bytes().startswith(b"%PDF")


def test_several_studies_and_run_folders(tmp_path: Path, write_study: Write, capsys):
    write_study(tmp_path / "a", arms=("eramv", "llava"), seeds=(0,))
    write_study(tmp_path / "b", arms=("eramv",), seeds=(0, 1)).rename(tmp_path / "a" / "other")
    about = tmp_path / "a" / "other" / "study.json"
    about.write_text(about.read_text().replace('"ablation_ca"', '"other"'))
    for file in about.parent.glob("*/result.json"):
        file.write_text(file.read_text().replace('"ablation_ca"', '"other"'))
    assert compare.main(["ablation_ca", "other"], tmp_path / "a", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["arms"]) == ["ablation_ca/eramv", "llava", "other/eramv"]

    folders = [f"other/eramv-s{seed}-a1b2c3d4" for seed in (1, 0)]
    assert compare.main(folders, tmp_path / "a", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arms"]["eramv"]["accuracy"]["seeds"] == [0, 1]

    file = tmp_path / "a" / folders[0] / "result.json"  # another recipe is another arm
    other = file.read_text().replace('"steps": 200', '"steps": 400')
    file.write_text(other.replace('"hash": "a1b2c3d4"', '"hash": "bbbbbbbb"'))
    assert compare.main(folders, tmp_path / "a", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["arms"]) == 2 and all("eramv@" in name for name in found["arms"])


def test_expectations(tmp_path: Path, write_study: Write):
    found = compare.compare_study(write_study(tmp_path, arms=("eramv", "llava")))
    assert [(e.what, e.met) for e in found.expectations] == [
        ("eramv accuracy", True),
        ("llava accuracy", False),
        ("minutes_per_fit", True),
    ]
    assert found.expectations[1].render().startswith("MISSED: llava accuracy >= 0.99, found 0.9")
    held = expect.check({"a": {"accuracy": "< 0.6", "digit": 2}, "minutes_per_fit": "soon"}, {}, 1)
    assert [(e.expected, e.met) for e in held] == [("< 0.6", None), ("<= 2", None), ("soon", None)]


def test_reading_needs_nothing_heavy(tmp_path: Path, write_study: Write):
    write_study(tmp_path, arms=("eramv", "llava"), seeds=(0,))
    code = (
        "import sys; from pathlib import Path; from eramv_lab.report import compare\n"
        f"compare.main(['ablation_ca'], Path({str(tmp_path)!r}))\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'pandas', 'transformers', 'matplotlib'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eramv" in done.stdout and "\x1b" not in done.stdout
