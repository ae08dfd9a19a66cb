"""`question_first` and `image_first`: the two orders of a prompt, and its templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from eramv_lab.registry import PROMPT
from eramv_lab.shapes import Dims
from eramv_lab.slots.prompts.chat import lacks_chat
from eramv_lab.slots.prompts.pieces import Frame, Frames, Kind, Piece, Turn, assemble

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

    template: Literal["plain", "caption", "vicuna", "chat"] = "plain"
    """Words around question and image: `plain` ends with `marker`; `caption` is LLaVA's first
    stage (image and answer, the question thrown away where there is an image); `vicuna` is
    LLaVA-1.5's; `chat` is the tokenizer's own chat template."""
    marker: str = "answer"
    """The word after which the answer stands, in `plain`."""
    positions: Literal["packed", "one", "grid"] = "packed"
    """Ids of the visual rows: one after another; one id for the whole image; or each patch at its
    place in a grid of reserved ids, whatever was selected."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a grid for rows that are no patches, a chat without a template."""
        if self.positions == "grid" and spec.anchors is not None and not spec.anchors.picks:
            yield "positions grid needs anchors that are patches"
        if self.positions == "grid" and spec.vision.dims().merged:
            yield "positions grid, and the tower merges patches: what is left is no grid"
        path = getattr(spec.language, "path", None)
        if self.template == "chat" and path and lacks_chat(path):
            yield (
                f"template chat: the tokenizer in {path} has no chat template; "
                "templates that do without: plain, caption, vicuna"
            )

    def pieces(
        self,
        turns: Sequence[Turn],
        images: int,
        chat: Frames,
        *,
        asking: bool = False,
    ) -> list[Piece]:
        """A conversation of (question, answer) turns; its images stand in the first one.

        `asking`: the prompt alone, up to where the last answer begins. `chat` gives the frames of
        the tokenizer's own template, for `template: chat`.
        """
        frames = self.frames(len(turns), images, chat)
        if self.template == "caption" and images:
            turns = [("", answer) for _, answer in turns]
        first = self._first(turns[0][0].strip(), images)
        return assemble(turns, frames, first, asking=asking)

    @property
    def joiner(self) -> str:
        """Between the images and the question."""
        return " " if self.template == "plain" else "\n"

    def frames(self, turns: int, images: int, chat: Frames) -> Sequence[Frame]:
        """The template's words around each of so many turns; `chat` gives the tokenizer's own."""
        if self.template == "chat":
            return chat(turns)
        if self.template == "caption":
            return [Frame(between="" if images else "\n", lead="", end="\n")] * turns
        if self.template == "vicuna":
            later = Frame("USER: ", " ASSISTANT:")
            return [Frame(f"{VICUNA} USER: ", " ASSISTANT:"), *[later] * (turns - 1)]
        between = f" {self.marker}"
        return [Frame("", between), *[Frame(" ", between)] * (turns - 1)]

    def _first(self, question: str, images: int) -> list[Piece]:
        """The first question and its images, in order."""
        shown: list[Piece] = []
        for number in range(images):
            shown += [Piece(Kind.FRAME, " ")] * bool(number) + [Piece(Kind.IMAGE)]
        asked = [Piece(Kind.QUESTION, question)] if question else []
        joiner = [Piece(Kind.FRAME, self.joiner)] * bool(shown and asked)
        return shown + joiner + asked if self.image_first else asked + joiner + shown


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
