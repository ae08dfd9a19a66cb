"""`generate` and `chat` on the command line: what is printed, refused, and the exit codes."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eramv_lab import cli
from eramv_lab.talk import How, Talker

ASK = "what digit in red circle"
Lab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Lab:
    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eramv-lab", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_one_question(talker: Talker, folder: Path, pictures: Path, lab: Lab, tmp_path: Path):
    file = pictures / "0.png"
    expected = talker.ask(file, ASK, how=How(max_new_tokens=3))
    line = ("generate", folder, "--image", file, "--question", ASK, "--max-new-tokens", 3)
    assert lab(*line)[:2] == (0, expected.text + "\n")
    code, out, err = lab(*line, "--json", "--show-anchors", tmp_path / "look.png")
    assert code == 0 and (tmp_path / "look.png").is_file() and "look.png" in err
    assert json.loads(out) == {"image": [str(file)], "question": ASK, **expected.plain()}
    drawn = [lab(*line, "--temperature", 9, "--seed", seed)[1] for seed in range(3)]
    assert len(set(drawn)) > 1


def test_all_problems_of_one_question(folder: Path, lab: Lab):
    line = ("generate", folder, "--image", "no.png", "--image", __file__, "-q", "what aubergine")
    code, out, err = lab(*line)
    assert code == 2 and out == "" and "error: 3 problems" in err
    assert "'aubergine'" in err and "no.png: there is no such picture" in err
    assert "not an image" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --question TEXT, or --questions FILE.jsonl and --out"),
        (("-q", "a", "--out", "a.jsonl"), "--out goes with --questions"),
        (("-q", "a", "--images", "."), "--images goes with --questions"),
        (("-q", "a", "--show-anchors", "a.png"), "needs an --image"),
        (("-q", "a", "--image", "b", "--show-anchors", "a"), "of one question it is a .png"),
        (("--questions", "a"), "--questions needs --out"),
        (("--questions", "a", "--out", "b", "-q", "c"), "one or the other"),
        (("--questions", "a", "--out", "b", "--image", "c"), "--image goes with --question"),
        (("--questions", "a", "--out", "b", "--show-anchors", "c.png"), "it is a folder"),
        (("-q", "a", "--sample", "--temperature", "0"), "draws nothing"),
    ],
)
def test_options_that_do_not_fit(lab: Lab, options: tuple[str, ...], words: str):
    code, out, err = lab("generate", "nowhere", *options)
    assert code == 2 and words in err and out == ""


def test_many_questions(folder: Path, pictures: Path, lab: Lab, tmp_path: Path):
    rows = [{"image": f"{n}.png", "question": ASK, "id": n} for n in (0, 1)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ("generate", folder, "--questions", tmp_path / "q.jsonl", "--images", pictures)
    line += ("--out", tmp_path / "a.jsonl", "--max-new-tokens", 3)
    code, out, err = lab(*line)
    assert code == 0 and "a.jsonl: 2 answers, 2 of them new" in out and err == ""
    found = [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == [0, 1]
    assert json.loads(lab(*line, "--json")[1])["fresh"] == 0
    assert "made with seed 0, and now it is 4" in lab(*line, "--seed", 4)[2]
    shutil.copytree(pictures, tmp_path / "others")
    assert "answers made with images" in lab(*line, "--images", tmp_path / "others")[2]


@pytest.mark.slow
def test_many_questions_survive_a_kill(folder: Path, pictures: Path, lab: Lab, tmp_path: Path):
    rows = [{"image": f"{n % 4}.png", "question": ASK, "id": n} for n in range(80)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["generate", folder, "--questions", tmp_path / "q.jsonl", "--images", pictures]
    line += ["--batch", 1, "--max-new-tokens", 3, "--temperature", 5]
    part = tmp_path / "a.jsonl.part"
    command = [sys.executable, "-m", "eramv_lab", *line, "--out", tmp_path / "a.jsonl"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(list(map(str, command)), env=here)
    while process.poll() is None and not (part.exists() and part.stat().st_size > 300):
        time.sleep(0.01)
    process.kill()
    process.wait()
    found = len(part.read_text().split("\n")) - 1
    assert 0 < found < 80 and not (tmp_path / "a.jsonl").exists()
    assert f"80 answers, {80 - found} of them new" in lab(*line, "--out", tmp_path / "a.jsonl")[1]
    assert lab(*line, "--out", tmp_path / "whole.jsonl")[0] == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not part.exists()


def test_many_problems_before_the_model(
    folder: Path, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "q.jsonl").write_text('{"question": "aubergine"}\n{"question": 1}\n')
    never = "eramv_lab.model.EramvForConditionalGeneration.from_pretrained"
    monkeypatch.setattr(never, lambda *_, **__: pytest.fail("the model was loaded"))
    line = ("generate", folder, "--questions", tmp_path / "q.jsonl", "--out", tmp_path / "a")
    code, _, err = lab(*line)
    assert code == 2 and "q.jsonl:1: the model does not know the word 'aubergine'" in err
    assert "q.jsonl:2: 'question' should be a text" in err
    assert [file.name for file in tmp_path.iterdir()] == ["q.jsonl"]


def test_chat_from_a_pipe(
    talker: Talker, folder: Path, pictures: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    file = pictures / "0.png"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASK}\n/image {file}\n{ASK}\n"))
    code, out, _ = lab("chat", folder, "--max-new-tokens", 3)
    how = How(max_new_tokens=3)
    words = [talker.ask(image, ASK, how=how).text for image in (None, file)]
    assert code == 0 and out.splitlines() == words
    assert lab("chat", folder, "--image", "nowhere.png")[0] == 2
