"""A file of questions is looked through as a whole, and told line by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from eramv_lab.errors import Problem, UserError
from eramv_lab.talk.lines import Line, read_lines


def written(file: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_lines_are_read_in_their_order(pictures: Path, tmp_path: Path):
    file = written(
        tmp_path / "q.jsonl",
        {"image": "0.png", "question": "a", "id": 7, "answer": "right"},
        "",
        {"image": ["0.png", str(pictures / "1.png")], "question": "ü"},
        {"image": None, "question": "c"},
        {"question": "d"},
    )
    found = read_lines(file, pictures)
    assert [one.number for one in found] == [1, 3, 4, 5]
    assert [one.question for one in found] == ["a", "ü", "c", "d"]
    one, two = pictures / "0.png", pictures / "1.png"
    assert [line.images for line in found] == [(one,), (one, two), (), ()]
    assert found[0].row["id"] == 7 and found[0].row["answer"] == "right"


def test_paths_are_below_the_file(pictures: Path):
    file = written(pictures / "q.jsonl", {"image": "3.png", "question": "a"})
    assert read_lines(file, None)[0].images == (pictures / "3.png",)


def test_a_line_is_known_again_with_its_answer():
    row = {"question": "a", "image": None}
    line = Line(number=1, row=row, question="a", images=())
    other = Line(number=2, row={"question": "b"}, question="b", images=())
    from eramv_lab.talk.lines import key_of

    assert line.key == key_of({"image": None, "question": "a", "prediction": "x", "tokens": 1})
    assert line.key != other.key


def test_every_problem_is_told_at_once(pictures: Path, tmp_path: Path):
    (pictures / "cut.png").write_bytes(b"\x89PNG")
    file = written(
        tmp_path / "q.jsonl",
        "{bad",
        [1],
        {"question": " ", "image": 4, "tokens": 1},
        {"question": "a", "image": ["0.png", "gone.png"]},
        {"question": "strange", "image": "cut.png"},
    )

    def wrong(text: str) -> list[Problem]:
        return [Problem(message="no such word", nearest="range")] if text == "strange" else []

    with pytest.raises(UserError) as caught:
        read_lines(file, pictures, wrong)
    told = [(problem.line, problem.message.split(":")[0]) for problem in caught.value.problems]
    assert told[0] == (1, "is no JSON") and told[1][0] == 2
    assert [line for line, _ in told] == [1, 2, 3, 3, 3, 4, 5, 5]
    text = str(caught.value)
    assert "'question' should be a text, found \" \"" in text and "'tokens' is what" in text
    assert "gone.png: there is no such picture" in text and "cut.png: not an image" in text
    assert f"{file}:5: no such word\n    did you mean: range" in text


def test_many_problems_are_cut(tmp_path: Path):
    file = written(tmp_path / "q.jsonl", *["{"] * 70)
    with pytest.raises(UserError, match=r"\.\.\. and 20 more problems"):
        read_lines(file, None)


def test_no_question_and_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="holds no question"):
        read_lines(written(tmp_path / "q.jsonl", ""), None)
    with pytest.raises(UserError, match="there is no such file"):
        read_lines(tmp_path / "none.jsonl", None)
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(UserError, match="is not UTF-8"):
        read_lines(tmp_path / "latin.jsonl", None)
    with pytest.raises(UserError, match="is no folder"):
        read_lines(tmp_path / "q.jsonl", tmp_path / "nowhere")
