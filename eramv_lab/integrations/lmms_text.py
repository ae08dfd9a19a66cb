"""What a task of lmms-eval asks, in our words: question, images, turns; and where answers end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eramv_lab.data.formats.llava import MARK
from eramv_lab.data.images import as_rgb, decode
from eramv_lab.errors import UserError
from eramv_lab.slots.prompts.pieces import Turn

SAMPLING = ("temperature", "top_p", "top_k")
ALWAYS = ("num_beams", "repetition_penalty")


class Talk(NamedTuple):
    """A question, what was said before it, and the images of both, in order."""

    question: str
    images: list[np.ndarray]
    history: list[Turn]


def talk_of_visuals(context: str, visuals: Any) -> Talk:
    """Of a context and the images that belong to it (a list, one image, or None).

    Raises UserError for a visual that is no image.
    """
    images = [rgb(visual) for visual in _flat(visuals)]
    return Talk(_unmarked(context, images), images, [])


def talk_of_messages(messages: Sequence[Mapping[str, Any]]) -> Talk:
    """Of chat messages; what the system says stands in front of the first question.

    The images, wherever they stand, go where the model's own prompt has them: with the first
    question. Raises UserError for a part that is no text or image, and for a talk that does not
    end with a question.
    """
    images: list[np.ndarray] = []
    history: list[Turn] = []
    said: list[str] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [part["text"] for part in parts if part["type"] == "text"]
        images += [rgb(part.get("url")) for part in parts if part["type"] != "text"]
        if message["role"] == "assistant":
            history.append(("\n".join(said), "\n".join(texts)))
            said = []
        else:
            said += texts
    if not said:
        raise UserError("a task's messages end with an answer; a question is expected")
    turns = [(_unmarked(question, images), answer) for question, answer in history]
    return Talk(_unmarked("\n".join(said), images), images, turns)


def rgb(visual: Any) -> np.ndarray:
    """The pixels of a PIL image, or of an image file that is named, uint8 [H,W,3].

    As the data's images are read: what is transparent shows white. Raises UserError for a video,
    a sound, a file that is no image.
    """
    if not isinstance(visual, Image.Image | str | Path):
        raise UserError(f"eramv takes text and images, not {type(visual).__name__}")
    try:
        if isinstance(visual, Image.Image):
            return as_rgb(visual)
        return decode(Path(visual).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"eramv takes text and images; {visual}: {error}") from None


def cut(answer: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of `until`, blanks around it left out."""
    answer = answer.strip()  # first: a blank line in front ends nothing
    for end in [until] if isinstance(until, str) else until or ():
        answer = answer.split(end)[0] if end else answer
    return answer.strip()


def generation_settings(task: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` from a task's; `max_new_tokens` where the task does not say.

    Sampled where the task gives a temperature above 0 or asks for it, and never at 0. Settings of
    other models (`image_aspect_ratio`, ...) mean nothing here.
    """
    heat = task.get("temperature")
    sample = bool(task.get("do_sample", bool(heat))) and heat != 0
    names = (*ALWAYS, *SAMPLING) if sample else ALWAYS
    settings = {name: task[name] for name in names if task.get(name) is not None}
    most = task.get("max_new_tokens") or task.get("max_gen_toks") or max_new_tokens
    return settings | {"do_sample": sample, "max_new_tokens": int(most)}


def _unmarked(text: str, images: Sequence[Any]) -> str:
    """Without the marks where other models have their images, as in the training data."""
    return MARK.sub("", text) if images else text


def _flat(visuals: Any) -> list[Any]:
    if visuals is None:
        return []
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [visual for one in visuals for visual in _flat(one)]
