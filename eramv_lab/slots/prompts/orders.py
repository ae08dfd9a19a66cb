"""`question_first` and `image_first`: the two orders of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from eramv_lab.registry import PROMPT
from eramv_lab.shapes import Dims

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What both orders share."""

    image_first: ClassVar[bool] = False

    template: Literal["plain", "vicuna", "chat"] = "plain"
    """Words around question and image: `plain` ends with `marker`; `vicuna` is LLaVA-1.5's;
    `chat` is the tokenizer's own chat template."""
    marker: str = "answer"
    """The word after which the answer stands, in `plain`."""
    positions: Literal["packed", "one", "grid"] = "packed"
    """Ids of the visual rows: one after another; one id for the whole image; or each patch at its
    place in a grid of reserved ids, whatever was selected."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a grid for rows that are no patches."""
        if self.positions == "grid" and spec.anchors is not None and not spec.anchors.picks:
            yield "positions grid needs anchors that are patches"

    def write(self, question: str, image: str) -> str:
        """The prompt up to the answer, but for `chat` (which the tokenizer writes).

        `image` is the run of placeholders, or empty for a sample without an image.
        """
        joiner = " " if self.template == "plain" else "\n"
        parts = [image, question] if self.image_first else [question, image]
        body = joiner.join(part for part in parts if part)
        if self.template == "plain":
            return f"{body} {self.marker}"
        if self.template == "vicuna":
            return f"{VICUNA} USER: {body} ASSISTANT:"
        return body


@dataclass(frozen=True, kw_only=True)
class QuestionFirstConfig(PromptConfig):
    """The question, then the image: the anchors see what is asked (eRAM-V)."""


@dataclass(frozen=True, kw_only=True)
class ImageFirstConfig(PromptConfig):
    """The image, then the question (LLaVA)."""

    image_first: ClassVar[bool] = True


@PROMPT.register("question_first", QuestionFirstConfig)
@PROMPT.register("image_first", ImageFirstConfig)
def no_module(config: PromptConfig, dims: Dims) -> None:
    """A prompt has no parameters; processor and positions read its config."""
    return
