"""A conversation in the terminal: words come as they are said, commands begin with a slash."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextStreamer

from eramv_lab.errors import LabError, UserError, nearest
from eramv_lab.slots.prompts.pieces import Turn
from eramv_lab.talk.pictures import open_pictures
from eramv_lab.talk.talker import Answer, How, Question, Seen, Talker

HELP = """\
/image F [F ...]   talk about these images; a new conversation (alone: about none)
/show F.png        where the model looked for its last answer
/reset             forget the turns, keep the images
/help              this
/quit              leave; so does Ctrl-D. Ctrl-C stops an answer, a second one leaves"""
COMMANDS = ("/image", "/show", "/reset", "/help", "/quit")


class Chat:
    """The state of one conversation, and what each line that is typed does to it.

    Answers go to `out`; what is told about the conversation, and errors, go to `told`.
    """

    def __init__(self, talker: Talker, how: How, out: TextIO, told: TextIO) -> None:
        self.talker, self.how, self.out, self.told = talker, how, out, told
        self.seen: tuple[Seen, ...] = ()
        self.history: list[Turn] = []
        self.last: tuple[Question, Answer] | None = None
        self.failed = 0
        """Lines that came to nothing."""
        self.stopped = False
        """The last answer was stopped: another Ctrl-C leaves."""

    def line(self, text: str) -> bool:
        """Do what a line says; False where it ends the conversation."""
        text, self.stopped = text.strip(), False
        if text == "/quit":
            return False
        try:
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._ask(text)
        except LabError as error:
            self.failed += 1
            print(error, file=self.told, flush=True)
        return True

    def look_at(self, images: Sequence[str | Path]) -> None:
        """Talk about these images from here on. Raises UserError, and then nothing changes."""
        self.seen = tuple(self.talker.see(open_pictures(images)))
        self._forget()

    def _forget(self) -> None:
        self.history, self.last = [], None

    def _command(self, text: str) -> None:
        try:
            name, *rest = shlex.split(text)
        except ValueError as error:
            raise UserError(f"{text}: {error}") from None
        if name == "/image":
            self.look_at(rest)
            self._tell(f"{_images(len(rest))}, a new conversation")
        elif name == "/reset" and not rest:
            self._forget()
            self._tell("a new conversation")
        elif name == "/help" and not rest:
            self._tell(HELP)
        elif name == "/show" and len(rest) == 1:
            if self.last is None:
                raise UserError("/show: there is no answer yet")
            self._tell(str(self.talker.show(*self.last, Path(rest[0]).expanduser())))
        elif name == "/show":
            raise UserError("/show takes one file: /show looked.png")
        elif name in COMMANDS:
            raise UserError(f"{name} takes nothing behind it")
        else:
            close = nearest(name, COMMANDS)
            hint = f"did you mean {close}?" if close else "/help lists what there is"
            raise UserError(f"there is no {name}; {hint}")

    def _tell(self, text: str) -> None:
        print(text, file=self.told, flush=True)

    def _ask(self, text: str) -> None:
        question = Question(text=text, images=self.seen, history=tuple(self.history))
        try:
            self.talker.check(question)
        except UserError:
            if self.history and self._fits_alone(question):
                raise UserError("the conversation is too long for the model: /reset") from None
            raise
        with _stoppable() as stop:
            answer = self.talker.answer(
                [question],
                self.how,
                streamer=_Streamer(self.talker.processor.tokenizer, self.out),
                stopping=StoppingCriteriaList([stop]),
            )[0]
        self.stopped = stop.wanted
        if stop.wanted:
            self._tell("(stopped; Ctrl-C again leaves)")
        elif not answer.ended:
            self._tell(f"(cut off after {len(answer.ids)} tokens)")
        self.history.append((text, answer.text))
        self.last = (question, answer)

    def _fits_alone(self, question: Question) -> bool:
        try:
            self.talker.check(Question(text=question.text, images=question.images))
        except UserError:
            return False
        return True


def chat(
    talker: Talker,
    how: How,
    images: Sequence[Path] = (),
    *,
    read: Callable[[str], str] | None = None,
    out: TextIO | None = None,
    told: TextIO | None = None,
) -> int:
    """Talk until the input ends; the exit code.

    In a terminal, lines are read with a prompt; from a pipe they are read as they are, and the
    code is 1 where one of them came to nothing. `read` stands in for `input`. Raises UserError
    for `images` that cannot be used, KeyboardInterrupt for a second Ctrl-C.
    """
    at_desk = read is not None or sys.stdin.isatty()
    talk = Chat(talker, how, out or sys.stdout, told or sys.stderr)
    talk.look_at(images)
    if not at_desk:
        for line in sys.stdin:
            if not talk.line(line):
                break
        return int(talk.failed > 0)
    print(f"about {_images(len(images))}; /help lists the commands", file=talk.told, flush=True)
    for line in _typed(read or _input(), talk):
        if not talk.line(line):
            break
    return 0


def _images(count: int) -> str:
    return f"{count} images" if count > 1 else "one image" if count else "no image"


def _input() -> Callable[[str], str]:
    """`input` with the keys of a line editor, where Python has one."""
    with suppress(ImportError):
        import readline  # noqa: F401
    return input


def _typed(read: Callable[[str], str], talk: Chat) -> Iterator[str]:
    """Lines until Ctrl-D; a Ctrl-C at the prompt warns, the next one goes through."""
    warned = False
    while True:
        try:
            line = read("> ")
        except EOFError:
            print(file=talk.told)
            return
        except KeyboardInterrupt:
            if warned or talk.stopped:
                raise
            warned = True
            print("\nCtrl-C again leaves, and so does Ctrl-D", file=talk.told, flush=True)
            continue
        warned = False
        yield line


class _Stop(StoppingCriteria):
    """Ends an answer after the token at which it is wanted."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.wanted, device=input_ids.device)


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Ctrl-C asks for the end of an answer; a second one interrupts as ever."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def pressed(signum: int, frame: Any) -> None:
        if stop.wanted:
            raise KeyboardInterrupt
        stop.wanted = True

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Streamer(TextStreamer):
    """Writes the words of an answer as they come."""

    def __init__(self, tokenizer: Any, out: TextIO) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out = out

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.out.write(text + "\n" * stream_end)
        self.out.flush()
