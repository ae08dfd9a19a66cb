"""A conversation: turns remembered, commands, words it does not know, Ctrl-C and Ctrl-D."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eramv_lab.errors import UserError
from eramv_lab.talk import How, Talker
from eramv_lab.talk.chat import Chat, _Streamer, chat

HOW = How(max_new_tokens=4)
ASK = "what digit in red circle"


def talking(talker: Talker, how: How = HOW) -> tuple[Chat, io.StringIO, io.StringIO]:
    out, told = io.StringIO(), io.StringIO()
    return Chat(talker, how, out, told), out, told


def typing(*lines: Any) -> Callable[[str], str]:
    """Stands in for `input`: lines, and exceptions that keys raise."""
    rest = list(lines)

    def read(prompt: str) -> str:
        line = rest.pop(0) if rest else EOFError()
        if isinstance(line, str):
            return line
        raise line

    return read


def test_turns_are_remembered(talker: Talker, pictures: Path):
    talk, out, _ = talking(talker)
    file = pictures / "0.png"
    talk.look_at([file])
    assert talk.line(ASK) and talk.line("how many") and talk.line("")
    one = talker.ask(file, ASK, how=HOW)
    two = talker.ask(file, "how many", history=[(ASK, one.text)], how=HOW)
    assert out.getvalue() == f"{one.text}\n{two.text}\n"
    assert talk.history == [(ASK, one.text), ("how many", two.text)]
    assert talk.line("/reset") and talk.history == [] and len(talk.seen) == 1
    assert not talk.line("/quit")


def test_commands(talker: Talker, pictures: Path, tmp_path: Path):
    talk, out, told = talking(talker)
    spaced = tmp_path / "a b.png"
    spaced.write_bytes((pictures / "1.png").read_bytes())
    assert talk.line(f"/image {pictures / '0.png'} '{spaced}'") and len(talk.seen) == 2
    assert talk.line(ASK) and talk.line(f"/show {tmp_path / 'look.png'}")
    assert (tmp_path / "look.png").is_file()
    assert talk.line("/image") and talk.seen == () and talk.history == []
    assert talk.line("/help") and "/show F.png" in told.getvalue()
    assert talk.failed == 0 and out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/imag", "did you mean /image?"),
        ("/xyzzy", "/help lists"),
        ("/show a.png", "no answer yet"),
        ("/show", "takes one file"),
        ("/reset now", "takes nothing behind it"),
        ("/image 'a", "No closing quotation"),
        ("/image nowhere.png", "nowhere.png: there is no such picture"),
        ("what digit in red cirle", "did you mean: circle"),
    ],
)
def test_a_line_that_comes_to_nothing_is_told(talker: Talker, line: str, words: str):
    talk, out, told = talking(talker)
    assert talk.line(line) and talk.failed == 1
    assert words in told.getvalue() and out.getvalue() == "" and talk.history == []


def test_an_image_that_fails_changes_nothing(talker: Talker, pictures: Path):
    talk, *_ = talking(talker)
    talk.look_at([pictures / "0.png"])
    talk.line(ASK)
    talk.line("/image nowhere.png")
    assert len(talk.seen) == 1 and len(talk.history) == 1


def test_a_long_conversation_is_told_to_reset(talker: Talker, monkeypatch: pytest.MonkeyPatch):
    talk, _, told = talking(talker)
    monkeypatch.setattr(talker, "longest", 12)
    talk.line(ASK)
    talk.line(ASK)
    assert "the conversation is too long for the model: /reset" in told.getvalue()


def test_at_the_desk(talker: Talker, pictures: Path):
    out, told = io.StringIO(), io.StringIO()
    read = typing(ASK, KeyboardInterrupt(), ASK)
    code = chat(talker, HOW, [pictures / "0.png"], read=read, out=out, told=told)
    assert code == 0 and len(out.getvalue().splitlines()) == 2
    assert "about one image;" in told.getvalue() and "Ctrl-C again leaves" in told.getvalue()
    with pytest.raises(KeyboardInterrupt):
        chat(talker, HOW, read=typing(*[KeyboardInterrupt()] * 2), out=out, told=told)
    with pytest.raises(UserError, match="no such picture"):
        chat(talker, HOW, [Path("nowhere.png")], read=typing(), out=out, told=told)


def test_a_pipe(talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASK}\n/quit\nhow many\n"))
    assert chat(talker, HOW) == 0
    out, err = capsys.readouterr()
    assert out == talker.ask(None, ASK, how=HOW).text + "\n" and ">" not in out + err
    monkeypatch.setattr("sys.stdin", io.StringIO("aubergine\n"))
    assert chat(talker, HOW) == 1


def test_ctrl_c_stops_an_answer(talker: Talker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(talker, "stops", [99])  # it would go on
    monkeypatch.setattr(_Streamer, "on_finalized_text", lambda *_, **__: press())
    pressed = []

    def press() -> None:
        if not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    talk, _, told = talking(talker, How(max_new_tokens=200))
    before = signal.getsignal(signal.SIGINT)
    assert talk.line(ASK) and talk.stopped and "(stopped" in told.getvalue()
    assert signal.getsignal(signal.SIGINT) is before
    assert 0 < len(talk.history[0][1].split()) < 5
    talk.line("")
    assert not talk.stopped


def test_a_second_ctrl_c_leaves_an_answer(talker: Talker, monkeypatch: pytest.MonkeyPatch):
    def press(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_Streamer, "on_finalized_text", press)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        talking(talker)[0].line(ASK)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_that_is_cut_off_is_told(talker: Talker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(talker, "stops", [99])
    talk, _, told = talking(talker)
    talk.line(ASK)
    assert "(cut off after 4 tokens)" in told.getvalue()
