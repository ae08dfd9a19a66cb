"""Further held-out sets: typed, checked with the rest, unknown to hashes where there are none."""

import pytest
import yaml

from eramv_lab.errors import UserError
from eramv_lab.recipe.parse import plain
from eramv_lab.recipe.resolve import load_recipe

ALSO = "evaluate: {also: {old: {world: {noise: 9.0}}, plain: {}}}\n"


def load(write, text: str = ALSO):
    write("further.yaml", "extends: small.yaml\n" + text)
    return load_recipe("further.yaml")


def test_a_set_is_a_world_of_its_own(write):
    arm = load(write, ALSO + "data: {world: {clutter: [1, 2]}}\n").arms["main"]
    old, default = arm.evaluate.also["old"], arm.evaluate.also["plain"]
    assert (old.type, old.world.noise, old.world.clutter) == ("world", 9.0, (6, 14))
    assert default.world.noise == 8.0
    assert arm.plain["evaluate"]["also"]["old"] == {"type": "world", "world": plain(old.world)}
    write("again.yaml", yaml.safe_dump(arm.plain, sort_keys=False))
    assert load_recipe("again.yaml").arms["main"].hash == arm.hash


def test_sets_make_another_result_of_the_same_training(write):
    without = load_recipe("small.yaml").arms["main"]
    arms = [load(write, text).arms["main"] for text in (ALSO, ALSO.replace("9.0", "7.0"))]
    assert len({without.hash, *(arm.hash for arm in arms)}) == 3
    assert {arm.training for arm in arms} == {without.training}
    for text in ("{}", "none", "{old: none}"):
        none = load(write, f"evaluate: {{also: {text}}}\n").arms["main"]
        assert none.hash == without.hash


def test_their_accuracy_may_be_expected(write):
    assert load(write, ALSO + "expect: {main: {accuracy_old: '> 0.5'}}\n").expect
    with pytest.raises(UserError, match="accuracy_older"):
        load(write, ALSO + "expect: {main: {accuracy_older: '> 0.5'}}\n")


@pytest.mark.parametrize(
    ("also", "key", "message"),
    [
        ("3", "", "expected sets by name"),
        ("{old: 3}", ".old", "expected a type and its settings"),
        ("{Old: {}}", ".Old", "small letters"),
        ("{low: {}}", ".low", "column accuracy_low already"),
        ("{digit: {}}", ".digit", "column accuracy_digit already"),
        ("{old: {folder: x}}", ".old.folder", "unknown key 'folder'"),
        ("{old: {type: shard}}", ".old.type", "there is no data 'shard'"),
        ("{old: {world: {noise: -1.0}}}", ".old.world", "noise is -1.0"),
        ("{old: {world: {nose: 1.0}}}", ".old.world.nose", "unknown key 'nose'"),
        ("{old: {world: {test: 2}}}", ".old", "evaluate.images 3 is more than its 2 images"),
    ],
)
def test_what_is_wrong_with_a_set_is_told(write, also, key, message):
    with pytest.raises(UserError) as caught:
        load(write, f"evaluate: {{images: 3, also: {also}}}\n")
    (problem,) = caught.value.problems
    assert problem.key == f"evaluate.also{key}" and message in problem.message
    assert problem.line == 2


def test_captions_need_room(write):
    mix = "{world: {mix: {digit: 0.5, caption: 0.5}}}"
    for text in (f"data: {mix}\n", f"evaluate: {{also: {{told: {mix}}}}}\n"):
        with pytest.raises(UserError, match=r"2 cuts off the world's captions, .* 12 words"):
            load(write, text)
    assert load(write, f"data: {mix}\nevaluate: {{max_new_tokens: 13}}\n").arms
    none = "data: {world: {mix: {digit: 0.5, caption: 0.0}}}\n"
    assert load(write, none).arms["main"].evaluate.max_new_tokens == 2
