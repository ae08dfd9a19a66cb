"""What writing one recipe over another keeps, changes and drops."""

import pytest

from eramv_lab.errors import UserError
from eramv_lab.recipe.load import interpolated, read_recipe
from eramv_lab.recipe.nodes import to_data
from eramv_lab.recipe.resolve import load_recipe


def merged(path, *overrides):
    document = read_recipe(path, overrides)
    assert not document.problems
    return to_data(document.shared)


@pytest.mark.parametrize(
    ("override", "slot", "result"),
    [
        ("model.anchors.count=4", "anchors", {"type": "cls_topk", "count": 4, "cls": True}),
        ("model.anchors=cls_topk", "anchors", {"type": "cls_topk", "count": 8, "cls": True}),
        ("model.anchors.type=random", "anchors", {"type": "random"}),
        ("model.anchors=none", "anchors", {"type": "none"}),
        ("model.anchors={type: pool, count: 9}", "anchors", {"type": "pool", "count": 9}),
        ("model.bridge=~", "bridge", {"type": "none"}),
        ("model.band=none", "band", {"type": "none"}),
        ("model.band.start=1", "band", {"start": 1, "length": 2}),
        ("model.band=early", "band", {"place": "early"}),
        ("model.band=[1, 3]", "band", {"layers": [1, 3]}),
        ("model.band.every=2", "band", {"every": 2}),
        ("model.band.gate=tanh", "band", {"start": 2, "length": 2, "gate": "tanh"}),
        ("model.band.type=attend", "band", {"start": 2, "length": 2, "type": "attend"}),
        ("model.reducer=[fastv]", "reducer", ["fastv"]),
    ],
)
def test_override(write, override, slot, result):
    assert merged("small.yaml", override)["model"][slot] == result


def test_keys_over_none_start_afresh(write):
    band = merged("small.yaml", "model.band.gate=tanh", "model.band=none", "model.band.start=1")
    assert band["model"]["band"] == {"start": 1}


def test_an_empty_section_changes_nothing(write):
    path = write("a.yaml", "extends: small.yaml\ntrain:\n")
    assert merged(path)["train"] == {"steps": 3, "lr": 1e-3}


def test_dotted_and_nested_keys_are_the_same(write):
    flat = write(
        "a.yaml", "extends: small.yaml\nmodel.band.start: 1\ntrain: {roles.vision: full}\n"
    )
    deep = write(
        "b.yaml",
        "extends: small.yaml\nmodel: {band: {start: 1}}\ntrain: {roles: {vision: full}}\n",
    )
    assert merged(flat) == merged(deep)


def test_a_key_written_twice_in_two_forms(write):
    path = write("a.yaml", "extends: small.yaml\nmodel.band.start: 1\nmodel: {band: {start: 2}}\n")
    (problem,) = read_recipe(path).problems
    assert (problem.line, problem.key) == (3, "model.band.start")
    (problem,) = read_recipe(write("b.yaml", "a..b: 1\n")).problems
    assert "a part is empty" in problem.message


def test_arms_are_deltas_and_inherited(write):
    write("a.yaml", "extends: small.yaml\narms:\n  one: {}\n  two: {model.band: none}\n")
    path = write("b.yaml", "extends: a.yaml\narms: {one: none, two: {train.lr: 1}, three:}\n")
    document = read_recipe(path, ["train.steps=9", "arms.two.train.steps=5"])
    assert list(document.arms) == ["two", "three"]
    two, three = (to_data(document.arm(name)) for name in ("two", "three"))
    assert (two["train"], two["model"]["band"]) == ({"steps": 5, "lr": 1}, {"type": "none"})
    assert (three["train"]["steps"], three["model"]["band"]["start"]) == (9, 2)


def test_a_shared_override_does_not_undo_an_arm(write):
    path = write("a.yaml", "extends: small.yaml\narms: {plain: {model.band: none}, band: {}}\n")
    recipe = load_recipe(path, ["model.band.start=1"])
    assert [arm.spec.band for arm in recipe.arms.values()] == [(), (1, 2)]


def test_interpolation(write):
    path = write("a.yaml", "extends: small.yaml\ntrain: {images: '${train.steps}'}\n")
    assert load_recipe(path, ["train.steps=7"]).arms["main"].train.images == 7
    document = read_recipe(write("b.yaml", "a: 1\nb: ${c.d}\n"))
    problems = []
    interpolated(document.shared, problems)
    assert (problems[0].line, problems[0].key) == (2, "b")
    with pytest.raises(UserError, match=r"b\.yaml:2: b"):
        load_recipe("b.yaml")
