"""Files: one clear message for what is no recipe, and lines that survive `extends`."""

import pytest

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.load import parse_override, read_recipe
from eramv_lab.recipe.nodes import find, read_text, to_data


def the_problem(path, *overrides) -> Problem:
    with pytest.raises(UserError) as caught:
        read_recipe(path, overrides)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "empty"),
        ("# nothing\n", None, "empty"),
        ("- a\n- b\n", 1, "found a list"),
        ("word\n", 1, "found 'word'"),
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a:\n  b: 1\n   c: 2\n", 3, ""),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is written twice (first in line 1)"),
        ("a: !!python/object:os.system {}\n", None, ""),
        ("a: !secret x\n", 1, "tag"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("? [a]\n: 1\n", 1, "a key is a word"),
        ("a: 1\n---\nb: 2\n", 2, "document"),
        ("a: \x00\n", None, "cannot stand"),
        ("a: " + "[" * 5000, None, ""),
    ],
)
def test_what_is_no_recipe(write, text, line, message):
    problem = the_problem(write("bad.yaml", text))
    assert problem.file == "bad.yaml" and message in problem.message
    if line is not None:
        assert problem.line == line


def test_not_utf8(write):
    path = write("bad.yaml", "")
    path.write_bytes(b"a: 1\nb: \xff\xfe\n")
    assert (the_problem(path).line, the_problem(path).message) == (2, "this is not UTF-8 text")


def test_missing_file_folder_and_extends(write):
    assert the_problem("smal.yaml").nearest == "small.yaml"
    assert the_problem("small").nearest == "small.yaml"
    write("folder/x.yaml", "a: 1")
    assert "is a folder" in the_problem("folder").message
    assert the_problem("folder").nearest == "folder/*.yaml"
    problem = the_problem(write("a.yaml", "question: x\nextends: smal.yaml\n"))
    assert (problem.file, problem.line, problem.nearest) == ("a.yaml", 2, "small.yaml")
    problem = the_problem(write("b.yaml", "extends: [a.yaml]\n"))
    assert "expected the path of a recipe" in problem.message


def test_extends_in_a_circle(write):
    write("a.yaml", "extends: b.yaml\n")
    problem = the_problem(write("b.yaml", "x: 1\nextends: a.yaml\n"))
    assert "extends itself" in problem.message and problem.key == "extends"


def test_scalars_are_those_of_yaml_1_2():
    text = "{a: 1e-3, b: on, c: 2020-01-01, d: 010, e: .5, f: true, g: ~, h: 1:30, i: 5., j: -2}"
    data = to_data(read_text(text, "x"))
    assert data == {
        **{"a": 0.001, "b": "on", "c": "2020-01-01", "d": 10, "e": 0.5},
        **{"f": True, "g": None, "h": "1:30", "i": 5.0, "j": -2},
    }


def test_lines_follow_the_file_that_wrote_the_key(write):
    path = write("deep/a.yaml", "extends: ../small.yaml\n\nmodel:\n  band: {start: 1}\n")
    shared = read_recipe(path, ["train.lr=2e-3"]).shared
    places = {key: find(shared, key) for key in ("model.band.start", "model.band.length")}
    assert (places["model.band.start"].file, places["model.band.start"].line) == ("deep/a.yaml", 4)
    assert (places["model.band.length"].file, places["model.band.length"].line) == ("small.yaml", 7)
    assert find(shared, "train.lr").file == "command line"
    assert find(shared, "model.anchors.no.such.key").line == 6


def test_overrides():
    assert to_data(parse_override("a.b=x=y")) == {"a.b": "x=y"}
    assert to_data(parse_override("a={type: x, n: [1, 2]}")) == {"a": {"type": "x", "n": [1, 2]}}
    for text in ("a", "=1", "a b=1", "a=", "a=[1", "a={x: 1, x: 2}"):
        with pytest.raises(UserError) as caught:
            parse_override(text)
        assert caught.value.problems[0].file == "command line"
        assert caught.value.problems[0].line is None
