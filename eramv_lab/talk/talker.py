"""`Talker`: a model and its processor, asked in words about pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from eramv_lab.errors import LabError, UserError
from eramv_lab.slots.prompts.pieces import Turn
from eramv_lab.talk.pictures import Picture, open_pictures
from eramv_lab.talk.words import unknown_words

USUAL = 128
"""Most new tokens where neither the caller nor the model's generation config says."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One image as the tower saw it; several questions may share it."""

    pixels_3HW: Tensor
    """What the image processor made of it."""
    features: Mapping[str, Tensor]
    """The tower's output: `states` [P,V], and what else the model asks of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked, about which images, after which turns."""

    text: str
    images: tuple[Seen, ...] = ()
    history: tuple[Turn, ...] = ()
    """Question and answer of each earlier turn; the images stand in the first one."""


@dataclass(frozen=True, kw_only=True)
class How:
    """How an answer is drawn."""

    max_new_tokens: int | None = None
    """None: what the model's generation config says, else `USUAL`."""
    temperature: float = 0.0
    """0 takes the likeliest word every time."""
    seed: int = 0
    """Draws the words where the temperature is not 0."""


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    ids: tuple[int, ...]
    """Its tokens, without what ends it."""
    ended: bool
    """False: it was cut off at the most new tokens, or stopped."""

    def plain(self) -> dict[str, Any]:
        """As the files and `--json` say it."""
        finish = "ended" if self.ended else "length"
        return {"prediction": self.text, "finish": finish, "tokens": len(self.ids)}


class Talker:
    """Asks a model questions about pictures, one or many at once.

    `model` is an `EramvForConditionalGeneration` (adapter layers in it or not), `processor` its
    `EramvProcessor`; `eramv_lab.talk.load` makes both of a folder.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        config = model.generation_config
        ends, pad = getattr(config, "eos_token_id", None), processor.tokenizer.pad_token_id
        self.stops: list[int] = [ends] if isinstance(ends, int) else list(ends or ())
        if not self.stops:
            self.stops = [processor.tokenizer.eos_token_id]
        self.pad: int = self.stops[0] if pad is None else pad
        self.usual: int = getattr(config, "max_new_tokens", None) or USUAL
        self.longest: int | None = getattr(
            model.config.get_text_config(), "max_position_embeddings", None
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def ask(
        self,
        images: Picture | Sequence[Picture] | None,
        question: str,
        *,
        history: Sequence[Turn] = (),
        how: How | None = None,
        show: Path | None = None,
    ) -> Answer:
        """The answer to one question about an image, several, or none.

        An image is a path, a PIL image or a uint8 array [H,W,3]. `show`: a PNG to draw, of where
        the model looked. Raises UserError for a picture that cannot be used and for words that
        the model cannot read.
        """
        asked = Question(
            text=question, images=tuple(self.see(open_pictures(images))), history=tuple(history)
        )
        self.check(asked)
        answer = self.answer([asked], how)[0]
        if show is not None:
            self.show(asked, answer, Path(show))
        return answer

    @torch.inference_mode()
    def see(self, images_HWC: Sequence[Any]) -> list[Seen]:
        """uint8 RGB images [H,W,3] through the tower, all in one batch."""
        if not images_HWC:
            return []
        pictures = [Image.fromarray(image) for image in images_HWC]
        seen = self.processor.image_processor(images=pictures, return_tensors="pt")
        pixels_N3HW = seen["pixel_values"]
        patches = self.model.see(pixels_N3HW.to(self.device), None)
        features = patches.features()
        return [
            Seen(pixels, {name: rows[n] for name, rows in features.items()})
            for n, pixels in enumerate(pixels_N3HW)
        ]

    def check(self, question: Question) -> None:
        """Raise UserError for words that the tokenizer lacks, and a prompt that is too long."""
        if not question.text.strip() and not question.images:
            raise UserError("the question is empty")
        if problems := unknown_words(self.processor.tokenizer, question.text):
            raise UserError(problems)
        rows = self._rows([question])["input_ids"].shape[1]
        if self.longest is not None and rows >= self.longest:
            raise UserError(
                f"the prompt has {rows} rows, and the language model takes {self.longest} with "
                "its answer"
            )

    def inputs(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What the model takes: prompts padded on the left, and the features of their images."""
        inputs: dict[str, Any] = {k: v.to(self.device) for k, v in self._rows(questions).items()}
        inputs["image_counts"] = tuple(len(question.images) for question in questions)
        seen = [image for question in questions for image in question.images]
        if seen:
            inputs["vision_features"] = {
                name: torch.stack([one.features[name] for one in seen]) for name in seen[0].features
            }
        return inputs

    @torch.inference_mode()
    def answer(
        self,
        questions: Sequence[Question],
        how: How | None = None,
        *,
        streamer: Any = None,
        stopping: Any = None,
    ) -> list[Answer]:
        """The answers to questions that `check` let pass, all in one batch.

        `streamer` and `stopping` (a list of criteria) are those of transformers' `generate`.
        """
        how = how or How()
        inputs = self.inputs(questions)
        rows = inputs["input_ids"].shape[1]
        most = how.max_new_tokens or self.usual
        if self.longest is not None:
            most = max(1, min(most, self.longest - rows))
        drawing = {"do_sample": True, "temperature": how.temperature} if how.temperature else {}
        try:
            with _seeded(how.seed, self.device):
                ids_BT = self.model.generate(
                    **inputs,
                    **(drawing or {"do_sample": False}),
                    max_new_tokens=most,
                    num_beams=1,
                    eos_token_id=self.stops,
                    pad_token_id=self.pad,
                    streamer=streamer,
                    stopping_criteria=stopping,
                )
        except torch.OutOfMemoryError:
            raise LabError(
                f"{self.device} has too little memory for {len(questions)} prompts of {rows} rows: "
                "ask fewer at once, or load the model in bfloat16"
            ) from None
        return [self._read(ids) for ids in ids_BT[:, rows:].tolist()]

    def show(self, question: Question, answer: Answer, file: Path) -> Path:
        """A picture of the anchors, and of where each band layer looked for the answer.

        Raises UserError for a question without an image, and a `file` that is no PNG.
        """
        from eramv_lab.talk.maps import looks_of
        from eramv_lab.talk.picture import draw

        return draw(looks_of(self, question, answer), question, answer, file)

    def _rows(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        prompts = [
            self.processor.write(one.text, len(one.images), one.history) for one in questions
        ]
        asked = [one.history[0][0] if one.history else one.text for one in questions]
        return self.processor.rows(prompts, asked, return_tensors="pt")

    def _read(self, ids: list[int]) -> Answer:
        end = next((n for n, token in enumerate(ids) if token in self.stops), None)
        said = ids[:end]
        text = self.processor.tokenizer.decode(said, skip_special_tokens=True)
        return Answer(str(text).strip(), tuple(said), end is not None)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside follows `seed`, and what is drawn outside never knows."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
