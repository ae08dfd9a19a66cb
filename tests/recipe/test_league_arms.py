"""A league becomes arms: systems by budgets, each at its price, the trained full model first."""

import textwrap
from pathlib import Path

import pytest

from eramv_lab.cost.formula import price
from eramv_lab.errors import InfeasibleError, UserError
from eramv_lab.recipe.resolve import load_recipe

TOLD = "{name: %s, source: s, acts: a, trains: %s, knob: %s}"
KNOB = "{key: model.anchors.count}"
SYSTEMS = {
    "full": (TOLD % ("Full", "all", "none"), "anchors: all\n  band: none"),
    "plain": (TOLD % ("Plain", "all", KNOB), "band: none"),
    "pool": (TOLD % ("Pool", "all", KNOB), "anchors: {type: pool, count: 16}\n  band: none"),
    "banded": (TOLD % ("Banded", "all", "{key: model.anchors.count, to: 100}"), "bridge: mlp"),
    "late": (TOLD % ("Late", "nothing", "none"), "anchors: all\n  band: [1]"),
    "drops": (
        TOLD % ("Drops", "nothing", "{key: model.reducer.keep}"),
        "anchors: all\n  band: none\n  reducer: [{type: fastv, layer: 1, keep: 16}]",
    ),
}
LEAGUE = """\
extends: small.yaml
league:
  systems: all
  full: full
  budgets: [0.6, 0.3]
  null: [plain]
cost: {text_tokens: 16}
"""


@pytest.fixture
def league(write):
    """Writes the systems and the league, lines of which may be replaced."""

    def put(*changes: tuple[str, str], **more: str):
        for name, (told, model) in SYSTEMS.items():
            steps = "train: {steps: 0}\n" if "nothing" in told else ""
            text = f"extends: ../small.yaml\nsystem: {told}\nmodel:\n  {model}\n{steps}"
            write(f"systems/{name}.yaml", more.get(name, text))
        text = LEAGUE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return write("league.yaml", text)

    return put


def problems_of(path, *overrides):
    with pytest.raises(UserError) as error:
        load_recipe(path, overrides)
    return error.value.problems


def test_arms_are_systems_by_budgets_the_full_one_first(league):
    recipe = load_recipe(league())
    assert list(recipe.arms) == [
        "full",
        *("plain_30", "plain_60"),
        "banded_60",
        "drops_60",
        "late",
        *("pool_30", "pool_60"),
    ]
    assert recipe.league.unreached.keys() == {"banded_30", "drops_30"}
    entry = recipe.league.arms["plain_60"]
    assert (entry.system, entry.told.name, entry.budget) == ("plain", "Plain", 0.6)
    assert recipe.league.arms["late"].budget is None


def test_each_meets_its_budget_with_the_least_that_is_enough(league):
    recipe = load_recipe(league())
    whole = price(recipe.arms["full"].spec, text_tokens=16).prefill
    for name, arm in recipe.arms.items():
        budget = recipe.league.arms[name].budget
        if budget is None:
            continue
        assert arm.matched and "x full" in next(iter(arm.matched.values()))
        share = price(arm.spec, text_tokens=16).prefill / whole
        assert budget <= share < budget + 0.12, (name, share)


def test_training_free_systems_stand_on_the_trained_full_model(league):
    arms = load_recipe(league()).arms
    for name in ("late", "drops_60"):
        assert arms[name].parent is arms["full"] and arms[name].train.steps == 0
    assert arms["plain_30"].parent is None
    assert {arms[n].train.steps for n in ("full", "plain_30", "banded_60")} == {3}


def test_one_out_of_reach_is_named_with_the_reason_and_is_no_error(league):
    recipe = load_recipe(league())
    reason = recipe.league.unreached["banded_30"]
    assert reason.startswith("model.anchors.count: at 1, the least, it costs")
    assert reason.endswith("% of full")
    with pytest.raises(InfeasibleError, match="banded_30: not reached"):
        recipe.arm("banded_30")


def test_what_the_league_changes_all_arms_have_and_what_a_system_changes_only_its(league):
    path = league(("league:", "train: {lr: 5e-4}\nleague:"))
    arms = load_recipe(path, ["train.steps=7", "arms.plain_30.train.lr=1e-4"]).arms
    assert {arm.train.lr for arm in arms.values()} == {5e-4, 1e-4}
    assert arms["plain_30"].train.lr == 1e-4
    assert (arms["full"].train.steps, arms["late"].train.steps) == (7, 0)


def test_systems_and_budgets_are_turned_from_the_command_line(league):
    path = league()
    recipe = load_recipe(path, ["league.budgets=[0.5]", "league.systems=[full, plain]"])
    assert list(recipe.arms) == ["full", "plain_50"]
    assert list(load_recipe(path, ["league.systems=[systems/full.yaml, plain]"]).arms)[1:] == [
        "plain_30",
        "plain_60",
    ]


def test_a_league_may_be_extended(league, write):
    league()
    path = write("mine.yaml", "extends: league.yaml\nleague.budgets: [0.5]\ntrain.lr: 1e-4\n")
    recipe = load_recipe(path)
    assert "plain_50" in recipe.arms and recipe.arms["full"].train.lr == 1e-4


def test_the_resolved_recipe_reads_back_to_the_same_arms(league, write):
    import yaml

    recipe = load_recipe(league())
    again = load_recipe(write("saved.yaml", yaml.safe_dump(recipe.to_plain(), sort_keys=False)))
    assert {n: a.hash for n, a in again.arms.items()} == {n: a.hash for n, a in recipe.arms.items()}
    assert recipe.league.to_plain()["arms"]["late"]["trains"] == "nothing"


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "text"),
    [
        ("systems: all", "systems: some", 3, "league.systems", "expected all or a list"),
        ("systems: all", "systems: [full, plian]", 3, "league.systems", "no system 'plian'"),
        ("systems: all", "systems: [full, full]", 3, "league.systems", "'full' is named twice"),
        ("full: full", "full: fll", 4, "league.full", "no system 'fll'"),
        ("full: full", "full: plain", 4, "league.full", "it is not the full model"),
        ("null: [plain]", "null: [plan]", 6, "league.null", "no system 'plan'"),
        ("budgets: [0.6, 0.3]", "budgets: [0.6, 1.3]", 5, "league.budgets", "found 1.3"),
        ("budgets: [0.6, 0.3]", "budgets: []", 5, "league.budgets", "expected shares"),
        ("budgets: [0.6, 0.3]", "budgets: [0.3, 0.3]", 5, "league.budgets", "percentage"),
        ("budgets: [0.6, 0.3]", "budgets: [0.255]", 5, "league.budgets", "whole percents, found"),
        ("systems: all", "systems: []", 3, "league.systems", "expected all or a list"),
        ("systems: all", "systems: [plain]", 4, "league.full", "not among league.systems"),
        ("null: [plain]", "null: [plain, plain]", 6, "league.null", "'plain' is there twice"),
        ("null: [plain]", "null: [full]", 6, "league.null", "'full' is the full system"),
        ("  null:", "  nul:", 6, "league.nul", "unknown key 'nul'"),
        ("extends: small.yaml", "extends: other.yaml", 1, "extends", "does not stand on other"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(league, write, old, new, line, key, text):
    write("other.yaml", "extends: small.yaml\n")
    problem, *_ = problems_of(league((old, new)))
    assert (problem.line, problem.key) == (line, key) and text in problem.message


def test_two_arms_of_one_name_are_refused(league, write):
    path = league()
    write("systems/plain_30.yaml", Path("systems/full.yaml").read_text())
    (problem,) = problems_of(path)
    assert (problem.line, problem.key) == (3, "league.systems")
    both = "systems 'plain' and 'plain_30' both have an arm 'plain_30': rename one"
    assert problem.message == both


@pytest.mark.parametrize(("above", "line"), [("../league.yaml", 2), ("../small.yaml", 4)])
def test_a_system_is_no_league(league, write, above, line):
    path = league()
    told = TOLD % ("Nested", "all", "none")
    own = "league.full: full\n" if line == 4 else ""
    text = f"extends: {above}\nsystem: {told}\nmodel.band: none\n{own}"
    file = write("systems/nested.yaml", text)
    (problem,) = problems_of(path)
    assert (problem.key, problem.line) == ("league", line)
    assert problem.message.startswith("a system of a league has no league of its own")
    assert any("a system is one model" in p.message for p in problems_of(file, "league.systems=[]"))


def test_what_is_wrong_in_a_system_is_told_in_its_file(league):
    told = TOLD % ("Plain", "all", KNOB)
    (problem,) = problems_of(league(plain="extends: ../small.yaml\nmodel.band: none\n"))
    assert problem.message == "this recipe has no system: section"
    assert problem.file == "systems/plain.yaml"
    text = f"extends: ../small.yaml\nsystem: {told}\narms: {{a: {{}}}}\n"
    (problem,) = problems_of(league(plain=text))
    assert (problem.file, problem.line) == ("systems/plain.yaml", 3) and "one model" in str(problem)
    text = f"extends: ../small.yaml\nsystem: {told}\nmodel.anchors.cont: 3\n"
    (problem,) = problems_of(league(plain=text))
    assert (problem.file, problem.line) == ("systems/plain.yaml", 3)
    assert "arms plain_30, plain_60" in problem.message


def test_a_system_brings_its_plugin(league, write, monkeypatch):
    monkeypatch.syspath_prepend(".")
    write(
        "border_anchors.py",
        textwrap.dedent(
            '''
            from dataclasses import dataclass
            from eramv_lab.registry import ANCHORS
            from eramv_lab.slots.anchors.stride import Stride, StrideConfig

            @dataclass(frozen=True, kw_only=True)
            class BorderConfig(StrideConfig):
                """From outside."""

            @ANCHORS.register("border", BorderConfig)
            class Border(Stride):
                """As stride."""
            '''
        ),
    )
    told = TOLD % ("Border", "all", KNOB)
    text = f"extends: ../small.yaml\nplugins: [border_anchors]\nsystem: {told}\n"
    recipe = load_recipe(league(plain=text + "model: {anchors: border, band: none}\n"))
    assert recipe.plugins == ("border_anchors",)
    assert recipe.arms["plain_30"].plain["model"]["anchors"]["type"] == "border"


def test_a_knob_is_solved_by_its_own_steps(write):
    write(
        "study.yaml",
        """\
        extends: small.yaml
        arms:
          full: {model.anchors: all, model.band: none}
          part:
            model.band: none
            model.anchors.count: {match_flops_of: full, share: 0.5, from: 2, to: 120, step: 7}
        """,
    )
    arms = load_recipe("study.yaml").arms
    count = arms["part"].spec.anchors.count
    assert (count - 2) % 7 == 0
    assert arms["part"].matched == {"model.anchors.count": "0.5 x full"}
    whole = price(arms["full"].spec).prefill
    assert price(arms["part"].spec).prefill >= 0.5 * whole


@pytest.mark.parametrize(
    ("asked", "key", "text"),
    [
        ("share: 0", "share", "above 0"),
        ("shre: 0.5", "shre", "unknown key"),
        ("step: a", "step", "expected a number"),
        ("from: 5, to: 2", "to", "2 is below from, 5"),
    ],
)
def test_what_a_match_cannot_ask(write, asked, key, text):
    path = write(
        "study.yaml",
        "extends: small.yaml\narms:\n  a: {}\n"
        f"  b: {{model.anchors.count: {{match_flops_of: a, {asked}}}}}\n",
    )
    (problem,) = problems_of(path)
    assert problem.key == f"model.anchors.count.{key}" and text in problem.message


@pytest.mark.parametrize(
    ("knob", "reducer", "text"),
    [
        ("model.reducer.3.keep", "[{type: fastv, layer: 1, keep: 16}]", "turns reducer 3"),
        ("model.reducer.keep", "[{type: fastv, layer: 1}, {type: shortv}]", "which of 2 reducers"),
    ],
)
def test_a_knob_without_its_reducer_is_told_and_none_is_lost(league, knob, reducer, text):
    told = TOLD % ("Drops", "nothing", f"{{key: {knob}}}")
    model = f"model: {{anchors: all, band: none, reducer: {reducer}}}"
    drops = f"extends: ../small.yaml\nsystem: {told}\n{model}\ntrain: {{steps: 0}}\n"
    (problem,) = problems_of(league(drops=drops))
    assert text in problem.message and problem.file and problem.file.endswith("drops.yaml")
    assert problem.key == "system.knob.key"


def test_a_system_that_trains_nothing_may_not_train_in_a_league(league):
    told = TOLD % ("Drops", "nothing", "none")
    drops = f"extends: ../small.yaml\nsystem: {told}\nmodel: {{anchors: all, band: none}}\n"
    found = problems_of(league(drops=drops))
    assert any("drops: nothing, but arm drops has train.steps" in p.message for p in found)
