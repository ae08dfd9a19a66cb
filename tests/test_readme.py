"""The README is run: its component, its recipe, its commands, its Python."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eramv_lab.cli import app
from eramv_lab.data.importing import import_llava
from eramv_lab.errors import Problem
from eramv_lab.recipe.load import read_recipe
from eramv_lab.recipe.nodes import read_text, to_data
from eramv_lab.sweep.config import KEYS
from eramv_lab.sweep.domains import parse_domain
from eramv_lab.sweep.load import load_sweep
from tests.hub import make_clip, make_qwen2

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
SWEEP = "sweeps/band_search.yaml"
NEEDY = ("compare", "analyse", "ui", "export", "generate", "chat")
"""Verbs that need runs, or somebody who types."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line[line.find("python -m eramv_lab") :] for line in map(started_by_one, lines) if line]


def started_by_one(line: str) -> str:
    """A line that torchrun would start, as it starts it."""
    return re.sub(r"^torchrun .*(-m eramv_lab.*)$", r"python \1", line)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of one's own data and models, its folders filled with tiny ones."""
    folder = tmp_path_factory.mktemp("mine")
    text = next(block for block in blocks("yaml") if block.startswith("# mine.yaml"))
    for name in ("align", "mix"):
        (folder / f"{name}.json").write_text(json.dumps([CHAT | {"id": str(i)} for i in range(60)]))
        with contextlib.redirect_stdout(io.StringIO()):
            import_llava(folder / f"{name}.json", folder, folder / "data" / name, processes=1)
        text = text.replace(f"data/{name}", str(folder / "data" / name))
    text = text.replace("openai/clip-vit-large-patch14-336", str(make_clip(folder / "clip")))
    text = text.replace("Qwen/Qwen2-1.5B-Instruct", str(make_qwen2(folder / "qwen2")))
    text = text.replace("count: 64", "count: 4").replace("images: 200, ", "")
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


CHAT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}


@pytest.mark.parametrize("line", commands())
def test_a_command_is_understood(line, mine, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    python, flag, package, verb, *words = shlex.split(line)
    rest = [name for word in words for name in (sorted(glob(word)) if "*" in word else [word])]
    assert (python, flag, package) == ("python", "-m", "eramv_lab")
    if "mine.yaml" in rest:
        rest[rest.index("mine.yaml")] = str(mine)
    if verb == "fit":  # what it would train, checked to the last key
        verb, rest = "check", [word for word in rest if word not in ("--seed", "0")]
    elif verb == "sweep":
        shown = CliRunner().invoke(app, [verb, "--help"])
        assert all(word in shown.output for word in rest if word.startswith("--"))
        assert load_sweep(rest[0]).space.possible()
        return
    elif verb == "generate" and "--image" in rest:  # the released base is there
        rest[rest.index("--show-anchors") + 1] = str(tmp_path / "look.png")
        said = CliRunner().invoke(app, [verb, *rest], catch_exceptions=False)
        assert (said.exit_code, said.stdout.strip()) == (0, "8"), said.output
        assert (tmp_path / "look.png").stat().st_size > 10_000
        return
    elif verb in NEEDY:  # their options must exist at least
        rest = [word for word in rest if word.startswith("--")]
        shown = CliRunner().invoke(app, [verb, "--help"])
        assert shown.exit_code == 0 and all(word in shown.output for word in rest)
        return
    elif verb == "data":
        rest = [*rest, "--help"]
    result = CliRunner().invoke(app, [verb, *rest], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_recipe_loads(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = next(block for block in blocks("yaml") if block.startswith("extends"))
    recipe.write_text(text.replace("base.yaml", str(ROOT / "experiments/base.yaml")))
    result = CliRunner().invoke(app, ["check", str(recipe)], catch_exceptions=False)
    assert result.exit_code == 0 and "4 arm(s), seeds 0, 1, 2" in result.output


def test_the_sweep_is_an_excerpt_of_the_one_that_is_run():
    block = next(block for block in blocks("yaml") if "search:" in block)
    shown = to_data(read_text(block, "README.md", line=None))
    written = {k: to_data(n) for k, n in read_recipe(ROOT / SWEEP).shared.value.items()}
    assert shown.keys() == {"goal", "budget", "search"}
    assert shown["goal"] == written["goal"] and shown["budget"] == written["budget"]
    assert load_sweep(ROOT / SWEEP).domains == {
        key: parse_domain(key, value, []) for key, value in shown["search"].items()
    }


def test_the_page_of_sweeps_lists_every_key():
    page = (ROOT / "sweeps/README.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert set(listed) == {*KEYS, "seeds"}
    block = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    for key, value in to_data(read_text(block[1], "page", line=None))["search"].items():
        problems: list[Problem] = []
        assert parse_domain(key, value, problems) is not None, problems


def test_the_component_works_in_fifteen_lines(tmp_path):
    code = next(block for block in blocks("python") if "my_anchors" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_anchors.py").write_text(code)
    (tmp_path / "recipe.yaml").write_text(
        f"extends: {ROOT / 'experiments/base.yaml'}\n"
        "plugins: [my_anchors]\n"
        "model: {anchors: {type: border, count: 8}}\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "eramv_lab", "cost", "recipe.yaml", "--count", "--json"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert '"visual_tokens": 8' in result.stdout


def test_the_python_runs(tmp_path, monkeypatch):
    code = next(block for block in blocks("python") if "build_model" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    names: dict[str, object] = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "EramvForConditionalGeneration"
