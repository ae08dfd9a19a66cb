"""Many questions into a file: in order, nothing lost where it was cut off, nothing half-written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eramv_lab.errors import UserError
from eramv_lab.talk import How, Talker
from eramv_lab.talk.lines import Line, read_lines
from eramv_lab.talk.many import Done, answer_file, fingerprint

HOW = How(max_new_tokens=4)
SETTINGS = {"model": "tiny", "max_new_tokens": 4}
ROWS: list[dict[str, Any]] = [
    {"image": "0.png", "question": "what digit in red circle", "id": "a"},
    {"image": "0.png", "question": "color of digit 3", "id": "b"},
    {"question": "how many", "note": {"kept": [1]}},
    {"image": ["1.png", "2.png"], "question": "is there a blue star"},
    {"image": "2.png", "question": "what digit in red circle"},
    {"image": "2.png", "question": "what digit in red circle"},  # the same again
]


@pytest.fixture
def here(pictures: Path, tmp_path: Path) -> Path:
    for file in pictures.glob("?.png"):
        shutil.copy(file, tmp_path)
    return tmp_path


def lines_of(here: Path, rows: list[dict[str, Any]] = ROWS) -> list[Line]:
    (here / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return read_lines(here / "q.jsonl", None)


def run(talker: Talker, lines: list[Line], here: Path, **more: Any) -> Done:
    settings = more.pop("settings", SETTINGS)
    how = more.pop("how", HOW)
    return answer_file(
        lines, here / "a.jsonl", lambda: talker, how, settings=settings, batch=2, **more
    )


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class Cut:
    """A talker that is interrupted at its nth batch, and counts the questions and images."""

    def __init__(self, talker: Talker, at: int | None) -> None:
        self.talker, self.at, self.batches, self.asked, self.saw = talker, at, 0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.talker, name)

    def see(self, images: Any) -> Any:
        self.saw += len(images)
        return self.talker.see(images)

    def answer(self, questions: Any, how: Any) -> Any:
        self.batches += 1
        if self.batches == self.at:
            raise KeyboardInterrupt
        self.asked += len(questions)
        return self.talker.answer(questions, how)


def test_answers_are_those_of_one_by_one(talker: Talker, here: Path):
    counted: Any = Cut(talker, None)
    done = run(counted, lines_of(here), here)
    assert (done.answers, done.errors, done.fresh) == (6, 0, 5)
    assert counted.saw == 3  # an image for several questions is seen once
    for row, given in zip(rows_of(here / "a.jsonl"), ROWS, strict=True):
        names = [given["image"]] if isinstance(given.get("image"), str) else given.get("image", [])
        alone = talker.ask([here / name for name in names], given["question"], how=HOW)
        assert row == {**given, **alone.plain()}
    assert not (here / "a.jsonl.part").exists()
    assert json.loads((here / "a.jsonl.settings.json").read_text()) == SETTINGS


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_what_was_cut_off_goes_on(
    talker: Talker, here: Path, capsys: pytest.CaptureFixture[str], temperature: float
):
    how = How(max_new_tokens=4, temperature=temperature, seed=3)
    lines = lines_of(here)
    run(talker, lines, here, how=how)
    whole = (here / "a.jsonl").read_text()
    (here / "a.jsonl").unlink()
    cut: Any = Cut(talker, at=3)
    with pytest.raises(KeyboardInterrupt):
        run(cut, lines, here, how=how)
    assert not (here / "a.jsonl").exists() and len(rows_of(here / "a.jsonl.part")) == 4
    assert "4 answers are kept in" in capsys.readouterr().err
    with (here / "a.jsonl.part").open("a") as file:
        file.write('{"image": "2.png", "question": "wh')  # killed while it wrote
    again: Any = Cut(talker, None)
    done = run(again, lines, here, how=how)
    assert again.asked == done.fresh == 1 and done.answers == 6
    assert (here / "a.jsonl").read_text() == whole


def test_what_is_done_is_not_asked_again(talker: Talker, here: Path):
    run(talker, lines_of(here, ROWS[:3]), here)
    more: Any = Cut(talker, None)
    assert run(more, lines_of(here, [ROWS[3], *ROWS[:3]]), here).fresh == 1
    assert [row["question"] for row in rows_of(here / "a.jsonl")] == [
        row["question"] for row in (ROWS[3], *ROWS[:3])
    ]

    def never() -> Talker:
        raise AssertionError("nothing is left to ask")

    lines = lines_of(here, [ROWS[3], *ROWS[:3]])
    done = answer_file(lines, here / "a.jsonl", never, HOW, settings=SETTINGS)
    assert (done.answers, done.fresh) == (4, 0)


def test_a_file_of_something_else_is_left_alone(talker: Talker, here: Path):
    lines = lines_of(here)
    (here / "a.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"is there, and not of `generate`.*name another --out"):
        run(talker, lines, here)
    assert (here / "a.jsonl").read_text() == "mine\n"
    (here / "a.jsonl").unlink()
    run(talker, lines[:3], here)
    with pytest.raises(UserError, match="made with max_new_tokens 4, and now it is 5"):
        run(talker, lines, here, settings=SETTINGS | {"max_new_tokens": 5})
    with pytest.raises(UserError, match="holds 2 answers to what is not asked here"):
        run(talker, lines[:1], here)
    assert len(rows_of(here / "a.jsonl")) == 3


def test_a_picture_that_turns_out_broken_is_an_error_on_its_line(talker: Talker, here: Path):
    lines = lines_of(here)
    good = (here / "2.png").read_bytes()
    (here / "2.png").write_bytes(good[: len(good) // 2])  # its first bytes tell nothing
    assert len(read_lines(here / "q.jsonl", None)) == 6
    done = run(talker, lines, here)
    assert (done.answers, done.errors) == (3, 3)
    bad = rows_of(here / "a.jsonl")[3:]
    assert all("2.png: damaged image" in row["error"] for row in bad)
    assert all("prediction" not in row for row in bad)
    (here / "2.png").write_bytes(good)
    done = run(talker, lines, here)
    assert (done.answers, done.errors, done.fresh) == (6, 0, 2)
    assert "error" not in rows_of(here / "a.jsonl")[4]


def test_a_prompt_that_is_too_long_is_an_error_on_its_line(
    talker: Talker, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(talker, "longest", 14)
    done = run(talker, lines_of(here), here)
    assert done.errors == 1 and "the prompt has" in rows_of(here / "a.jsonl")[3]["error"]


def test_pictures_of_many_are_drawn_by_line(talker: Talker, here: Path):
    rows = [ROWS[0], ROWS[2], ROWS[3]]
    lines = lines_of(here, rows)
    run(talker, lines, here)
    assert run(talker, lines, here, show=here / "shown").fresh == 2
    assert [f.name for f in sorted((here / "shown").iterdir())] == ["000001.png", "000003.png"]
    assert run(talker, lines, here, show=here / "shown").fresh == 0


def test_a_fingerprint_tells_models_apart(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "other")
    assert fingerprint(str(folder)) == fingerprint(str(other)) != ""
    weights = bytearray((other / "model.safetensors").read_bytes())
    middle = len(weights) // 2
    weights[middle] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert fingerprint(str(folder)) != fingerprint(str(other))
    weights[middle] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    (other / "chat_template.jinja").write_text("another")
    assert fingerprint(str(folder)) != fingerprint(str(other))
    assert fingerprint("owner/name") == ""
