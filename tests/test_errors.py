"""How problems read."""

from eramv_lab.errors import InfeasibleError, LabError, Problem, UserError, nearest


def test_a_problem_says_where_what_and_what_instead():
    problem = Problem(
        message="unknown key 'x'", file="a.yaml", line=3, key="m.x", allowed=("y", "z"), nearest="y"
    )
    assert problem.render() == (
        "a.yaml:3: m.x: unknown key 'x'\n    did you mean: y\n    allowed: y, z"
    )
    assert Problem(message="no", file="command line", key="a").render() == "command line: a: no"
    assert Problem(message="no").render() == "no"


def test_of_very_many_that_are_allowed_the_first_are_shown():
    text = Problem(message="no", allowed=tuple(map(str, range(200)))).render()
    assert text.endswith(" 78, 79 and 120 more")


def test_one_problem_stands_alone_and_several_are_numbered():
    assert str(UserError("no")) == "no"
    both = UserError(Problem(message=text) for text in ("first", "second"))
    assert str(both) == "2 problems\n1. first\n2. second"
    assert [p.message for p in both.problems] == ["first", "second"]


def test_exit_codes():
    assert [e.exit_code for e in (LabError, UserError, InfeasibleError)] == [1, 2, 3]
    assert issubclass(UserError, LabError)


def test_nearest():
    assert nearest("ancors", ["anchors", "bridge"]) == "anchors"
    assert nearest("zzz", ["anchors", "bridge"]) is None
