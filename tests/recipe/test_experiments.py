"""The recipes that we ship: they resolve, say what they ask, and base.yaml names every key."""

from pathlib import Path

import pytest
import yaml

from eramv_lab.recipe.base import read_base
from eramv_lab.recipe.diff import flatten
from eramv_lab.recipe.resolve import load_recipe

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
STUDIES = [p for p in sorted(EXPERIMENTS.rglob("*.yaml")) if not p.name.startswith("pretrain")]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_recipe_resolves_and_says_how_to_run_it(path):
    recipe = load_recipe(path.relative_to(ROOT))
    assert recipe.question.endswith("?") or recipe.question.endswith("no weights?")
    assert path.read_text().startswith("# ")


def test_base_holds_every_key_with_a_comment():
    arm = load_recipe("experiments/base.yaml").arms["main"]
    written = yaml.safe_load((EXPERIMENTS / "base.yaml").read_text())
    for section in ("base", "train", "data", "evaluate", "cost", "trainer"):
        keys = {key for key, _ in flatten(written[section])}
        assert keys == {key for key, _ in flatten(arm.plain[section])}, section


def test_the_arms_of_the_main_recipe():
    arms = load_recipe("experiments/ablation_ca.yaml").arms
    assert list(arms)[:3] == ["eramv", "no_bridge", "separate"]
    assert arms["eramv"].spec.dims().visual == 9
    assert arms["equal_flops"].matched == {"model.anchors.count": "eramv"}
    assert arms["fastv"].parent is arms["llava"] and arms["fastv"].train.steps == 0
    assert arms["llava"].spec.dims().visual == 144 and not arms["llava"].spec.band
    assert len({arm.hash for arm in arms.values()}) == len(arms)
    assert len({arm.base_recipe.hash for arm in arms.values() if arm.base_recipe}) == 1


def test_the_base_is_the_same_whatever_the_split_val():
    """It draws scenes of its own: nobody need train it anew because searches got a split."""
    path = Path("experiments/pretrain.yaml")
    known = read_base(path).hash
    assert read_base(path, ("world.val=10",)).hash == known
    assert read_base(path, ("world.noise=9",)).hash != known


def test_placement_costs_the_same_on_two_bases():
    from eramv_lab.cost.formula import price

    arms = load_recipe("experiments/ablation_placement.yaml").arms.values()
    assert len({price(arm.spec).prefill for arm in arms}) == 1
    assert {arm.base.seed for arm in arms} == {0, 1}


def test_the_bands_of_the_deep_bed_cost_the_same_and_stand_on_two_bases():
    from eramv_lab.cost.formula import price

    one = load_recipe("experiments/ablations/band_position.yaml").arms
    other = load_recipe("experiments/ablations/band_position_other_base.yaml").arms
    assert {name: arm.spec for name, arm in one.items()} == {n: a.spec for n, a in other.items()}
    assert [{arm.base.seed for arm in arms.values()} for arms in (one, other)] == [{1}, {0}]
    equal = [arm for name, arm in one.items() if name != "vica"]  # which has a layer more
    assert len({price(arm.spec).prefill for arm in equal}) == 1 < len(equal)


def test_anchors_with_and_without_a_band():
    arms = load_recipe("experiments/ablation_anchors.yaml").arms.values()
    counts = [(arm.spec.anchors.count, bool(arm.spec.band)) for arm in arms]
    assert len(set(counts)) == 6
    assert {n for n, band in counts if band} == {n for n, band in counts if not band}


def test_lora_learns_a_twentieth_from_the_base_that_all_arms_share():
    from eramv_lab.cost.formula import price

    arms = load_recipe("experiments/lora_finetune.yaml").arms
    assert len({arm.released.hash for arm in arms.values() if arm.released}) == 1
    assert all(arm.base_recipe is None for arm in arms.values())
    cost = {n: price(a.spec, train=a.plain["train"]["roles"]) for n, a in arms.items()}
    assert cost["lora"].trainable <= 0.05 * cost["lora"].parameters < cost["full"].trainable
    parts = cost["lora_band"].trainable + cost["lora_outside"].trainable
    assert parts == cost["lora"].trainable and arms["none"].train.steps == 0
    old = arms["lora"].evaluate.also["old"].world
    assert old == load_recipe("experiments/base.yaml").arms["main"].data.world
