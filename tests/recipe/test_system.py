"""The `system:` section: typed, neutral to hashes, of its own file alone."""

import pytest

from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import load_recipe

SYSTEM = """\
extends: small.yaml
system:
  name: Some
  source: arXiv 0000.00000
  acts: before the connector
  trains: everything
  exact: [this, that]
  knob: {key: model.anchors.count, from: 2}
"""


def problems_of(path):
    with pytest.raises(UserError) as error:
        load_recipe(path)
    return error.value.problems


def test_it_is_read_and_changes_no_hash(write):
    recipe = load_recipe(write("a.yaml", SYSTEM))
    assert recipe.system is not None and recipe.system.knob is not None
    assert (recipe.system.exact, recipe.system.knob.low) == (("this", "that"), 2)
    assert not recipe.system.training_free
    assert recipe.arm("main").hash == load_recipe("small.yaml").arm("main").hash
    assert recipe.to_plain()["system"]["knob"] == {
        "key": "model.anchors.count",
        "from": 2,
        "step": 1,
    }


def test_it_is_of_its_own_file_alone(write):
    write("a.yaml", SYSTEM)
    assert load_recipe(write("b.yaml", "extends: a.yaml\n")).system is None
    text = "extends: a.yaml\nsystem: {name: b, source: s, acts: a, trains: t, knob: none}\n"
    system = load_recipe(write("c.yaml", text)).system
    assert system is not None and (system.name, system.exact, system.knob) == ("b", (), None)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "text"),
    [
        ("  source:", "  sorce:", 4, "system.sorce", "unknown key 'sorce'"),
        ("name: Some", "name: 3", 3, "system.name", "found 3"),
        ("name: Some", 'name: " "', 3, "system.name", "expected some words"),
        ("exact: [this, that]", "exact: this", 7, "system.exact", "found 'this'"),
        ("from: 2", "form: 2", 8, "system.knob.form", "unknown key 'form'"),
        ("from: 2", "from: a", 8, "system.knob.from", "expected a number"),
        ("from: 2", "from: 2, to: 1", 8, "system.knob.to", "1 is below from, 2"),
        ("from: 2", "step: 0", 8, "system.knob.step", "above 0"),
        ("anchors.count", "anchors.cuont", 8, "system.knob.key", "no number"),
        ("model.anchors.count", "model..count", 8, "system.knob.key", "the key of a slot"),
        ("{key: model.anchors.count, from: 2}", "", 8, "system.knob", "found nothing"),
        ("model.anchors.count", "train.steps", 8, "system.knob.key", "the key of a slot"),
        ("trains: everything", "trains: nothing", 6, "system.trains", "train.steps 3: write 0"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write, old, new, line, key, text):
    problem, *_ = problems_of(write("a.yaml", SYSTEM.replace(old, new)))
    assert (problem.file, problem.line, problem.key) == ("a.yaml", line, key)
    assert text in problem.message


def test_the_nearest_key_is_offered(write):
    problem, *_ = problems_of(write("a.yaml", SYSTEM.replace("anchors.count", "anchors.cuont")))
    assert problem.nearest == "model.anchors.count"


def test_a_knob_is_said_or_none_is(write):
    path = write("a.yaml", SYSTEM.replace("  knob: {key: model.anchors.count, from: 2}\n", ""))
    (problem,) = problems_of(path)
    assert problem.message == "missing key 'knob'; write none for none"


def test_an_arm_has_no_system_of_its_own(write):
    path = write("a.yaml", "extends: small.yaml\narms: {a: {system.name: x}}\n")
    (problem,) = problems_of(path)
    assert "an arm cannot change it" in problem.message
