"""Numbers for a stated size: as this model has them, exact at that size, wrong ones named."""

import pytest

from eramv_lab.errors import UserError
from eramv_lab.recipe.load import read_recipe
from eramv_lab.recipe.nodes import to_data
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.recipe.scale import Sizes, scaled

SIZES = Sizes(at=8, rows=144, level=3)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ({"at": 2, "of": 32}, 1),
        ({"at": 0, "of": 32}, 0),
        ({"at": 1, "of": 32}, 1),  # nothing but the first is the first
        ({"at": 16, "of": 32}, 4),
        ({"at": 31, "of": 32}, 7),  # a layer that there is stays one
        ({"at": 32, "of": 32}, 8),
        ({"at": [0, 1, 7, 8, 9, 10, 11, 14], "of": 32}, [0, 1, 2, 3, 4]),
        ({"at": [38, 3], "of": 40}, [1, 7]),
        ({"at": 5, "of": 8}, 5),
        ({"rows": 64, "of": 576}, 16),
        ({"rows": 1, "of": 576}, 1),
        ({"rows": [66, 30, 17], "of": 576}, [17, 8, 4]),
        ({"rows": 64, "of": 16}, 576),
        ({"level": [12, 16, 22, 23], "of": 23}, [2, 3]),
        ({"a": [{"b": {"at": 16, "of": 32}}, 3], "of_what": 1}, {"a": [{"b": 4}, 3], "of_what": 1}),
    ],
)
def test_a_number_as_this_model_has_it(value, number):
    problems = []
    assert scaled(value, SIZES, "k", problems) == number
    assert not problems


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 32, 40])
def test_at_its_own_size_a_number_is_itself(depth):
    for at in range(depth + 1):
        assert scaled({"at": at, "of": depth}, Sizes(at=depth), "k", []) == at
        assert scaled({"rows": at + 1, "of": depth}, Sizes(rows=depth), "k", []) == at + 1


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        ({"at": 2, "rows": 3, "of": 32}, "k", "two keys, found at, rows, of"),
        ({"of": 32}, "k", "two keys, found of"),
        ({"lines": 3, "of": 32}, "k", "two keys, found lines, of"),
        ({"at": 2, "of": 0}, "k.of", "expected a whole number >= 1, found 0"),
        ({"at": -1, "of": 32}, "k.at", ">= 0 or a list of them, found -1"),
        ({"at": [], "of": 32}, "k.at", "found []"),
        ({"at": True, "of": 32}, "k.at", "found True"),
        ({"rows": [1, 0.5], "of": 576}, "k.rows", "found 0.5"),
        ({"at": 33, "of": 32}, "k.at", "33 is more than the 32 that it is said for"),
    ],
)
def test_a_wrong_one_is_named(value, key, text):
    problems = []
    scaled(value, SIZES, "k", problems)
    (problem,) = problems
    assert problem.key == key
    assert text in problem.message


def test_anywhere_in_a_model(write):
    path = write(
        "a.yaml",
        """\
        extends: small.yaml
        model:
          anchors.count: {rows: 64, of: 576}
          band: {layers: {at: [8, 16, 23], of: 32}}
        """,
    )
    spec = load_recipe(path).arm("main").spec
    patches, depth = spec.dims().vision.patches, spec.dims().language.layers
    assert spec.anchors.count == round(64 * patches / 576)
    assert spec.band == tuple(sorted({(at * depth + 16) // 32 for at in (8, 16, 23)}))
    written = {"model.anchors.count": spec.anchors.count, "model.band": list(spec.band)}
    same = load_recipe("small.yaml", [f"{key}={value}" for key, value in written.items()])
    assert same.arm("main").hash == load_recipe(path).arm("main").hash


def test_problems_have_the_line_of_their_key(write):
    path = write(
        "a.yaml",
        """\
        extends: small.yaml
        model:
          anchors:
            count: {rows: 0, of: 576}
          band: {start: {at: 40, of: 32}, length: 1}
        """,
    )
    with pytest.raises(UserError) as error:
        load_recipe(path)
    found = [(p.line, p.key) for p in error.value.problems]
    assert found == [(4, "model.anchors.count.rows"), (5, "model.band.start.at")]


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ("{rows: 64, of: 576}", "4", 4),
        ("4", "{rows: 64, of: 576}", {"rows": 64, "of": 576}),
        ("{at: 2, of: 32}", "{rows: 64, of: 576}", {"rows": 64, "of": 576}),
        ("{rows: 64, of: 576}", "{rows: 32, of: 576}", {"rows": 32, "of": 576}),
        ("{rows: 64, of: 576}", "{match_flops_of: a}", {"match_flops_of": "a"}),
        ("{match_flops_of: a}", "{rows: 64, of: 576}", {"rows": 64, "of": 576}),
    ],
)
def test_one_number_is_written_over_another_as_a_whole(write, old, new, result):
    write("a.yaml", f"extends: small.yaml\nmodel.anchors.count: {old}\n")
    path = write("b.yaml", f"extends: a.yaml\nmodel.anchors.count: {new}\n")
    assert to_data(read_recipe(path).shared)["model"]["anchors"]["count"] == result


def test_a_part_of_one_is_turned_from_the_command_line(write):
    path = write("a.yaml", "extends: small.yaml\nmodel.anchors.count: {rows: 64, of: 576}\n")
    shared = read_recipe(path, ["model.anchors.count.rows=32"]).shared
    assert to_data(shared)["model"]["anchors"]["count"] == {"rows": 32, "of": 576}
