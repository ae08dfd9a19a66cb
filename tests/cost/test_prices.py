"""The price list in the repository is the one that its own command writes now."""

import shlex
import sys
from pathlib import Path

import pytest

from eramv_lab import cli
from eramv_lab.cost.ops import prefill
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.shapes import Flops

ROOT = Path(__file__).parents[2]
SYSTEMS = Path("experiments/systems")
PAGE = ROOT / SYSTEMS / "PRICES.md"
SHAPES = ("llava15_7b", "llava15_13b")
FEW = ("llava", "fastv", "eramv")


def made_anew(monkeypatch, capsys, *only):
    """What the page's command prints, for all systems or some."""
    monkeypatch.chdir(ROOT)
    command = shlex.split(PAGE.read_text().split("```sh\n")[1].split("\n")[0])
    start = command.index("cost")
    words: list[str] = []
    for word in command[start:]:
        found = sorted(map(str, SYSTEMS.glob("*.yaml"))) if word.endswith("*.yaml") else [word]
        words += [one for one in found if len(found) == 1 or not only or Path(one).stem in only]
    monkeypatch.setattr(sys, "argv", ["eramv-lab", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    return capsys.readouterr().out


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_every_system_is_in_every_table():
    found = rows(PAGE.read_text())
    tables = sum(line.startswith("| recipe |") for line in found)
    assert tables == 2 * len(SHAPES)
    for path in (ROOT / SYSTEMS).glob("*.yaml"):
        assert sum(line.startswith(f"| {path.stem} |") for line in found) == tables, path.stem


def test_prices_have_not_drifted(monkeypatch, capsys):
    """Of a few systems: `make prices` writes the page anew."""
    found = rows(made_anew(monkeypatch, capsys, *FEW))
    assert len(found) == (len(FEW) + 1) * 2 * len(SHAPES)
    assert set(found) <= set(rows(PAGE.read_text()))


@pytest.mark.slow
def test_what_has_weights_tells_what_it_reads(monkeypatch):
    """Only scores for a ranking and means of rows are FLOPs alone: a thousandth, or nothing."""
    monkeypatch.chdir(ROOT)
    for path in sorted(SYSTEMS.glob("*.yaml")):
        spec = load_recipe(path, shape=SHAPES[0]).arm("main").spec
        ops = [step.op for step in prefill(spec, 64)]
        alone = sum(op.flops for op in ops if not isinstance(op.flops, Flops))
        assert alone <= 2e-3 * sum(op.flops for op in ops), path.stem


@pytest.mark.slow
def test_the_page_is_what_its_command_writes(monkeypatch, capsys):
    assert made_anew(monkeypatch, capsys) == PAGE.read_text()
