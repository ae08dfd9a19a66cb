"""Every recipe of experiments/systems reads, says what it is, stands on the bed and has a price."""

import json
from pathlib import Path

import pytest

from eramv_lab import cli
from eramv_lab.cost.systems import listed
from eramv_lab.recipe.load import read_recipe
from eramv_lab.recipe.match import put
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.recipe.resolve import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments" / "systems").glob("*.yaml"))


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def recipe_of(file: Path) -> Recipe:
    return load_recipe(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_system_says_what_it_is_and_is_one_model_on_the_bed(file):
    recipe = recipe_of(file)
    system = recipe.system
    assert system is not None and not recipe.has_arms
    assert system.exact, "what is exact is what a reader wants to know first"
    assert f"experiments/systems/{file.name}" in file.read_text()
    bed = load_recipe("experiments/deep.yaml").arm("main")
    arm = recipe.arm("main")
    assert (arm.data, arm.evaluate, arm.cost) == (bed.data, bed.evaluate, bed.cost)
    assert arm.spec.language == bed.spec.language
    free = system.training_free
    assert arm.train.steps == (0 if free else bed.train.steps), "the same steps for all that learn"
    ((found,), problems) = listed([file])
    assert not problems and found.cost.prefill > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_price_rises_with_its_knob(file):
    from eramv_lab.cost.formula import price

    recipe = recipe_of(file)
    assert recipe.system is not None
    knob = recipe.system.knob
    if knob is None:
        return
    place = tuple(int(p) if p.isdigit() else p for p in knob.key.split("."))
    plain = {"model": recipe.arm("main").plain["model"]}
    if place[1] == "reducer" and not isinstance(place[2], int):
        place = (*place[:2], 0, *place[2:])
    if place[1] == "band":
        plain = {"model": {**plain["model"], "band": _band(file)}}
    high = knob.high if knob.high is not None else knob.low + 40 * knob.step
    numbers = {knob.low, high, *(knob.low + i * knob.step for i in range(1, 12))}
    prices = []
    for number in sorted(n for n in numbers if n <= high):
        found = number if isinstance(number, int) else round(number, 10)
        spec = parse_model(put(plain, place, found)["model"], [])
        if spec is not None:
            prices.append(price(spec, text_tokens=16).prefill)
    assert len(prices) > 1, "no two of its numbers are models"
    assert prices == sorted(prices) and prices[0] < prices[-1]


def _band(file: Path):
    """The band as it is written: a resolved one has its layers alone."""
    from eramv_lab.recipe.nodes import to_data

    return to_data(read_recipe(file).shared)["model"]["band"]


def test_the_league_has_every_system():
    recipe = load_recipe("experiments/league.yaml")
    assert recipe.league is not None
    entries = {entry.system for entry in recipe.league.arms.values()}
    assert entries == {file.stem for file in FILES}
    assert recipe.league.arms.keys() == recipe.arms.keys() | recipe.league.unreached.keys()
    full = recipe.arms[recipe.league.full]
    for name, arm in recipe.arms.items():
        free = recipe.league.arms[name].told.training_free
        assert arm.parent is (full if free else None), name
        assert arm.data == full.data and arm.train.steps in (0 if free else full.train.steps,)


def test_the_verb_lists_them(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eramv-lab", "list", "systems", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {file.stem for file in FILES}
    assert found["llava"]["prefill_share"] == 1 and found["llava"]["visual_tokens"] == 144
    assert found["anchors"]["system"]["knob"]["key"] == "model.anchors.count"


def test_the_page_of_a_system(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eramv-lab", "describe", "llava"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "systems/llava: LLaVA-1.5" in text and "arXiv 2310.03744" in text and "reading:" in text
