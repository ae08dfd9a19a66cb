"""A recipe at a shape: that model's parts, the paper's sizes, and nothing that only a fit needs."""

import pytest

from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.recipe.shape import shape_path

SHAPE = """\
    question: What does it cost?
    model:
      vision: {type: tiny, width: 32, layers: 3}
      connector: mlp2x_gelu
      anchors: all
      language: {type: tiny, width: 48, layers: 6}
      prompt: image_first
    cost: {text_tokens: 20}
"""


@pytest.fixture
def shaped(write):
    """Writes a shape, and a recipe that a fit would need more for; the recipe at that shape."""
    write("scale/wide.yaml", SHAPE)

    def load(text, *overrides):
        write("sub/one.yaml", text)
        return load_recipe("sub/one.yaml", overrides, shape="wide")

    return load


def test_tower_language_model_connector_and_input_are_the_shapes(shaped):
    arms = shaped("""\
        extends: ../small.yaml
        base.model: nowhere
        data: {type: shards, folder: nowhere}
        expect: {accuracy: ">= 0.5"}
        arms:
          a: {}
          b: {model.language.layers: 12, base: {model: none, arm: a}, model.connector: linear}
    """).arms
    assert arms["a"].spec.language.layers == arms["b"].spec.language.layers == 6
    assert arms["a"].spec.vision.width == 32
    assert not arms["a"].spec.connector.skip  # our bed's own, which the shape has not
    assert arms["b"].spec.to_plain()["connector"]["type"] == "linear"
    assert {arm.cost.text_tokens for arm in arms.values()} == {20}
    assert arms["a"].spec.band == (2, 3) and arms["a"].spec.anchors.count == 8
    assert arms["b"].parent is None and arms["a"].released is None


def test_what_a_system_does_in_the_tower_stays(shaped):
    arms = shaped("""\
        extends: ../small.yaml
        model: {vision: {layers: 2, merge: {rows: 288, of: 576}}, anchors: all}
        arms: {a: {}, b: {model.vision.merge: none, model.vision.width: 48}}
    """).arms
    assert arms["a"].spec.vision.merge == 72 and arms["a"].spec.vision.width == 32
    assert arms["b"].spec.vision.merge is None and arms["b"].spec.vision.width == 32


def test_overrides_are_written_over_the_shape(shaped):
    arm = shaped("extends: ../small.yaml\n", "model.language.layers=7").arm("main")
    assert arm.spec.language.layers == 7


def test_numbers_for_a_stated_size_fit_the_shape(shaped):
    arm = shaped("""\
        extends: ../small.yaml
        model: {anchors: {count: {rows: 288, of: 576}}, band: {layers: {at: [8, 16], of: 32}}}
    """).arm("main")
    assert arm.spec.anchors.count == 72 and arm.spec.band == (2, 3)


SYSTEM = """\
extends: ../small.yaml
train.steps: 0
system: {name: it, source: somewhere, acts: here, trains: nothing, knob: none, tower: other,
         sizes: {%s}}
"""


def test_a_system_takes_its_papers_sizes(shaped):
    recipe = shaped(SYSTEM % "cls_topk: {count: 30}, band: {gate: tanh}")
    spec = recipe.arm("main").spec
    assert spec.anchors.count == 30 and spec.fusion.gate == "tanh" and spec.band == (2, 3)
    assert recipe.system is not None and recipe.system.tower == "other"
    here = load_recipe("sub/one.yaml").arm("main").spec
    assert here.anchors.count == 8 and here.fusion.gate == "none"


def test_sizes_of_what_is_not_there(shaped):
    with pytest.raises(UserError) as caught:
        shaped(SYSTEM % "qformer: {width: 768}, cls_topk: 3")
    text = caught.value.render()
    assert "sub/one.yaml:4: system.sizes.qformer: fills no slot of this recipe" in text
    assert "sub/one.yaml:4: system.sizes.cls_topk: expected keys and values" in text


def test_a_shape_is_a_file_or_a_name_near_the_recipe(write, tmp_path):
    write("scale/wide.yaml", SHAPE)
    near = tmp_path / "a" / "b" / "one.yaml"
    assert shape_path("wide", near) == tmp_path / "scale" / "wide.yaml"
    assert str(shape_path("other/wide.yaml", near)) == "other/wide.yaml"
    with pytest.raises(UserError, match=r"there is no shape 'wild'(.|\n)*did you mean: wide"):
        shape_path("wild", near)
    write("part.yaml", "model: {vision: tiny}\n")
    with pytest.raises(UserError, match=r"part.yaml: a shape needs model.language"):
        load_recipe("small.yaml", shape="part.yaml")


def test_a_league_stands_at_no_shape(write):
    write("scale/wide.yaml", SHAPE)
    write("league.yaml", "extends: small.yaml\nleague: {full: a, budgets: [0.5]}\n")
    write("mine.yaml", "extends: league.yaml\n")
    for name, line, more in (("league.yaml", 2, ""), ("mine.yaml", None, " (league.yaml:2)")):
        with pytest.raises(UserError) as caught:
            load_recipe(name, shape="wide")
        (problem,) = caught.value.problems
        assert (problem.file, problem.line, problem.key) == (name, line, "league")
        assert problem.message.endswith(f"price systems/*.yaml at a shape{more}")
