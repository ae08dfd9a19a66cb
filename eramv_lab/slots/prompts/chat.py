"""The frames of a tokenizer's own chat template, whatever its shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eramv_lab.errors import UserError
from eramv_lab.slots.hub import place_of
from eramv_lab.slots.prompts.pieces import Frame

DATE = "26 Jul 2024"
"""What templates that ask for the day are told, so that a prompt is the same tomorrow."""
FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def lacks_chat(path: str) -> bool:
    """Whether `path` is a folder here whose tokenizer has no chat template."""
    folder = Path(place_of(path))
    if not folder.is_dir() or any((folder / name).exists() for name in FILES):
        return False
    config = folder / "tokenizer_config.json"
    try:
        return '"chat_template"' not in config.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True


def chat_frames(tokenizer: Any, turns: int, template: Any = None) -> tuple[Frame, ...]:
    """The frames of a conversation of `turns` turns, as the chat template writes them.

    The last turn's question ends as a prompt for its answer does, thinking turned off. An answer
    ends with the tokenizer's end mark where the template writes it, else with the first special
    token that the template puts behind an answer, else the end mark is to be added.
    Raises UserError for a tokenizer without a template, and for one that cannot be used.
    """
    if template is None and not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'the language model'} has no "
            "chat_template; write prompt.template: vicuna or plain"
        )
    marks = [mark for k in range(turns) for mark in (_sentinel("q", k), _sentinel("a", k))]
    asked = _around(tokenizer, marks[:-1], template, asking=True)
    whole = _around(tokenizer, marks, template, asking=False)
    before, last = asked[-1], whole[-2]
    # what the template writes before an answer and not in a prompt has to be learnt
    extra = last[len(before) :] if last.startswith(before) else ""
    end = _end(tokenizer, whole[-1])
    frames: list[Frame] = []
    head = asked[0]
    for k in range(turns):
        final = k == turns - 1
        between, after = asked[2 * k + 1], whole[-1] if final else asked[2 * k + 2]
        stripped = between.rstrip(" ")
        lead = between[len(stripped) :] + (extra if final else "")
        tail, ends, rest = after.partition(end) if end else ("", "", after)
        found = bool(ends)
        frames.append(
            Frame(
                before=head,
                between=stripped,
                lead=lead,
                end=tail + ends if found else "",
                eos=not found,
            )
        )
        head = rest if found else after
    return tuple(frames)


def _sentinel(who: str, turn: int) -> str:
    return f"x{who}{turn}x7f3a"


def asks(tokenizer: Any, template: str, question: str) -> str | None:
    """What a template makes of one image and a question; None where it takes no images."""
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    try:
        return _render(tokenizer, [parts], template, asking=True)
    except UserError:
        return None


def _around(tokenizer: Any, marks: Sequence[str], template: Any, *, asking: bool) -> list[str]:
    """The text around the contents, which a template takes as text or, like LLaVA's, in parts."""
    try:
        return _split(_render(tokenizer, marks, template, asking=asking), marks)
    except UserError as error:
        parts = [[{"type": "text", "text": mark}] for mark in marks]
        try:
            return _split(_render(tokenizer, parts, template, asking=asking), marks)
        except UserError:
            raise error from None


def _render(tokenizer: Any, contents: Sequence[Any], template: Any, *, asking: bool) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            add_generation_prompt=asking,
            tokenize=False,
            enable_thinking=False,
            date_string=DATE,
        )
    except Exception as error:  # a template is foreign code, and raises what it likes
        text = " ".join(str(error).split())
        where = tokenizer.name_or_path or "the language model"
        raise UserError(f"the chat template of {where} cannot be used: {text}") from None


def _split(text: str, marks: Sequence[str]) -> list[str]:
    """The text between the contents. Raises UserError where one is not written once, in order."""
    parts: list[str] = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise UserError(
                "the chat template cannot be used: it does not write each message once, in order"
            )
        parts.append(before)
    return [*parts, text]


def _end(tokenizer: Any, tail: str) -> str:
    """What ends an answer in the text behind it; empty where nothing does."""
    if tokenizer.eos_token and tokenizer.eos_token in tail:
        return tokenizer.eos_token
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    found = [(tail.find(text), -len(text), text) for text in special if text in tail]
    return min(found)[2] if found else ""
