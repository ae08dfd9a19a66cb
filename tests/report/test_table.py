"""The table at any width, as Markdown and as CSV; the numbers in it; the plots' files."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eramv_lab.errors import LabError
from eramv_lab.report import artifacts, compare, numbers, plots, style, table
from eramv_lab.report.comparison import Comparison
from eramv_lab.report.differences import ranges, short_names
from eramv_lab.report.runs import find_study

Write = Callable[..., Path]
HOLES = {("llava", 2), ("fastv", 0), ("fastv", 1), ("fastv", 2)}


@pytest.fixture
def comparison(tmp_path: Path, write_study: Write) -> Comparison:
    return compare.compare_study(write_study(tmp_path, leave_out=HOLES))


def shown(comparison: Comparison, width: int) -> str:
    text = io.StringIO()
    table.show(comparison, text, width)
    return text.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_nothing_is_cut_at_any_width(comparison: Comparison, width: int):
    text = shown(comparison, width)
    assert "…" not in text
    cells = [c for group in table.groups(comparison) for column in group for c in column.cells]
    assert all(cell in text for cell in cells)
    assert max(len(line) for line in text.splitlines() if line.startswith("eramv ")) <= width
    assert "MISSED: llava accuracy" in text and "fastv: left out" in text


def test_wide_is_one_block(comparison: Comparison):
    assert len(table.blocks(comparison, 400)) == 1
    assert len(table.blocks(comparison, 80)) > 3


def test_columns(comparison: Comparison):
    heads = [column.head for group in table.groups(comparison) for column in group]
    assert heads[:8] == [
        *("anchors", "anchors.count", "band", "bridge"),
        *("accuracy", "95 % interval", "seeds", "vs eramv"),
    ]
    assert {"digit", "prefill MFLOPs", "× eramv", "training TFLOPs", "visual tokens"} <= set(heads)
    by_head = {c.head: c.cells for group in table.groups(comparison) for c in group}
    assert by_head["× eramv"][:5] == ["1.00", "0.62", "0.47", "0.99", "2.91"]
    assert by_head["visual tokens"][0] == "9 + 144 fine"
    assert by_head["seeds"][4:] == ["2 of 3", "0 of 3"]
    assert by_head["latency ms"][0] == "5.50" and "|tanh g|" not in by_head


def test_how_far_a_gate_is_open_stands_beside_those_that_have_none(write_study, tmp_path: Path):
    study = write_study(tmp_path)
    for seed, gate in enumerate((0.1, 0.2, 0.3)):
        [file] = study.glob(f"no_bridge-s{seed}-*/result.json")
        result = json.loads(file.read_text())
        result["row"]["gate"] = gate
        file.write_text(json.dumps(result))
    columns = [c for group in table.groups(compare.compare_study(study)) for c in group]
    [gates] = [c.cells for c in columns if c.head == "|tanh g|"]
    assert gates == ["–", "0.200", *["–"] * 4]


def test_markdown_and_csv(comparison: Comparison):
    text = table.markdown(comparison)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 8 and len({row.count("|") for row in rows}) == 1
    lines = list(csv.DictReader(io.StringIO(table.as_csv(comparison))))
    assert [line["arm"] for line in lines] == [arm.name for arm in comparison.arms]
    first = comparison.arms[0].accuracy
    assert first is not None and float(lines[0]["accuracy"]) == first.mean
    assert lines[0]["difference"] == "" and float(lines[2]["difference_high"]) < -0.3
    assert lines[5]["missing"] == "0 1 2" and lines[5]["accuracy"] == ""


def test_numbers():
    assert [numbers.digits(v) for v in (None, 0, 0.21, 5.5, 74, 215.4, 12345.6, 3e-5)] == [
        *("–", "0", "0.210", "5.50", "74.0", "215", "12 346", "0.0000300"),
    ]
    assert numbers.unit_of([4.6e7, 2.15e8], numbers.FLOPS) == ("MFLOPs", 1e6)
    assert numbers.unit_of([8.7e12, 0.9e12], numbers.FLOPS)[0] == "TFLOPs"
    assert numbers.unit_of([None, 0.0], numbers.FLOPS)[0] == "kFLOPs"
    assert numbers.share(-0.0311, signed=True) == "−0.031"
    assert [numbers.probability(p) for p in (None, 1e-9, 0.0123)] == ["–", "<.001", ".012"]


def test_short_names_and_ranges():
    keys = ["anchors.count", "bridge", "train.lr", "data.world.count", "sweep.world.count"]
    assert short_names(keys) == {
        "anchors.count": "anchors.count",
        "bridge": "bridge",
        "train.lr": "train.lr",
        "data.world.count": "data.world.count",
        "sweep.world.count": "sweep.world.count",
    }
    assert ranges([2, 3, 4, 7]) == "2-4, 7"


def test_report_files(tmp_path: Path, write_study: Write):
    study = write_study(tmp_path, arms=("eramv", "llava"), leave_out=HOLES)
    files = artifacts.write_report(study)
    names = [file.name for file in files]
    assert names == [
        *("table.md", "table.csv", "compare.json", "pareto.png", "types.png", "curves.png"),
    ]
    assert all(file.stat().st_size > 200 for file in files)
    assert json.loads((study / "compare.json").read_text())["reference"] == "eramv"


def test_plot_of_one_arm_and_of_one_price(
    comparison: Comparison, tmp_path: Path, write_study: Write
):
    alone = compare.compare_study(write_study(tmp_path / "x", arms=("eramv",), seeds=(0,)))
    assert plots.draw_pareto(alone, tmp_path / "one.svg").read_text().count("eramv")
    for arm in comparison.arms:
        arm.cost = {"prefill_tflops": 7.4e-5} if arm.seeds else {}
    assert plots.draw_pareto(comparison, tmp_path / "same.png").is_file()
    for arm in comparison.arms:
        arm.cost = {}
    assert plots.draw_pareto(comparison, tmp_path / "unpriced.png").is_file()
    (tmp_path / "x" / "ablation_ca" / "eramv-s0-a1b2c3d4" / "curves.csv").unlink()
    arms = find_study(tmp_path / "x" / "ablation_ca").arms
    assert plots.draw_curves(arms, tmp_path / "none.png") is None
    broken = tmp_path / "curves.csv"
    for text in ("step,name,value\n1,val/accuracy,high\n", "name\nval/accuracy\n"):
        broken.write_text(text)
        with pytest.raises(LabError, match=r"curves\.csv is not a table of step, name, value"):
            plots.read_curve(broken, "val/accuracy")


def test_labels_do_not_cover_each_other(tmp_path: Path):
    with style.drawing(7, 4) as (_, axes):
        points = [(50.0, 0.9 + 0.002 * i) for i in range(8)]
        axes.set_xlim(20, 100)
        axes.set_ylim(0.5, 1)
        bars = [(x, y - 0.01, y + 0.01) for x, y in points]
        style.label_points(axes, points, bars, [f"arm_number_{i}" for i in range(8)])
        boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
        assert len(boxes) == 8
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
