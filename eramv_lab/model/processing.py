"""`EramvProcessor`: questions and images to model inputs, in the order the prompt slot says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from eramv_lab.errors import UserError
from eramv_lab.model.image_processing import EramvImageProcessor
from eramv_lab.model.loading import ProcessorLoading
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.parse import parse_component, to_plain
from eramv_lab.registry import PROMPT
from eramv_lab.slots.language.tokens import IMAGE, as_text, image_token, special_texts
from eramv_lab.slots.prompts.chat import asks, chat_frames
from eramv_lab.slots.prompts.pieces import Kind, Piece, Turn
from eramv_lab.slots.prompts.template import as_template


class EramvProcessor(ProcessorLoading, ProcessorMixin):  # pyright: ignore[reportIncompatibleMethodOverride]
    """An image processor, a tokenizer, and where the image stands in a prompt.

    Args:
        image_processor: of the vision tower.
        tokenizer: of the language model; it gets the token `<image>` where it has none for images.
        visual_rows: placeholders that an image becomes (`model.visual_rows`).
        prompt: the prompt slot, plain (`{"type": "question_first", ...}`).
        chat_template: in place of the tokenizer's own, for `template: chat`.
        reads_question: the model's connector reads the question (`model.spec.reads_question`).
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        visual_rows: int = 1,
        prompt: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        reads_question: bool = False,
        **kwargs: Any,
    ) -> None:
        self.visual_rows = visual_rows
        self.reads_question = reads_question
        self.prompt = dict(prompt or {"type": "question_first"})
        problems: list[Any] = []
        self._prompt: Any = parse_component(PROMPT, self.prompt, "prompt", problems)
        if problems:
            raise UserError(problems)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        tokenizer.padding_side = "left"  # answers begin where prompts end

    @classmethod
    def for_spec(cls, spec: ModelSpec, image_processor: Any, tokenizer: Any) -> EramvProcessor:
        """The processor of a typed model section; a tokenizer that pads with nothing gets EOS."""
        image_token(tokenizer)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(
            image_processor,
            tokenizer,
            visual_rows=max(spec.dims().visual, 1),
            prompt=to_plain(spec.prompt, PROMPT),
            reads_question=spec.reads_question,
        )

    @classmethod
    def _get_arguments_from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Image processor and tokenizer; ours by itself, as AutoImageProcessor asks for pillow."""
        settings = (processor_dict or {}).get("image_processor") or {}
        if settings.get("image_processor_type") != EramvImageProcessor.__name__:
            return super()._get_arguments_from_pretrained(
                pretrained_model_name_or_path, processor_dict, **kwargs
            )
        words = cls._load_tokenizer_from_pretrained(
            "tokenizer", pretrained_model_name_or_path, **kwargs
        )
        return [EramvImageProcessor(**settings), words]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers, whose base class of image processors is not there without pillow."""
        if isinstance(argument, EramvImageProcessor):
            return EramvImageProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    @property
    def chat_template(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The prompt slot as a chat template: `apply_chat_template` gives what `write` gives.

        One that was given is kept where it asks about an image in these very words (LLaVA's own).
        None for a chat whose tokenizer has no template, or one whose frames cannot be told.
        """
        special, eos = special_texts(self.tokenizer), self.tokenizer.eos_token
        try:
            own, question = self._template, "what?"
            if own and asks(self.tokenizer, own, question) == self.write(question):
                return own
            return as_template(self._prompt, self._chat, special, eos)
        except UserError:
            return None

    @chat_template.setter
    def chat_template(self, template: str | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._template = template

    @property
    def image_token_id(self) -> int:
        """Id of a visual row in `input_ids`."""
        return self.tokenizer.convert_tokens_to_ids(image_token(self.tokenizer))

    def write(
        self,
        question: str,
        images: int = 1,
        history: Sequence[Turn] = (),
        answer: str | None = None,
    ) -> str:
        """The whole prompt of a question, up to where the answer begins.

        `history`: the turns before it, (question, answer) each; the images stand in the first
        turn, `<image>` each. `answer`: written behind the prompt, as training writes it, without
        what ends it. What looks like a special token in a question or answer is broken by a
        blank. Raises UserError for a chat whose tokenizer has no template, ValueError for an
        answer without words.
        """
        if answer is not None and not answer.strip():
            raise ValueError("an answer without words")
        turns = [*history, (question, answer or "")]
        pieces = self._prompt.pieces(turns, images, self._chat, asking=answer is None)
        while answer and pieces[-1].kind is not Kind.ANSWER:
            pieces.pop()
        special = special_texts(self.tokenizer)
        return "".join(self._text(piece, special) for piece in pieces)

    def _text(self, piece: Piece, special: Sequence[str]) -> str:
        if piece.kind is Kind.IMAGE:
            return IMAGE
        if piece.kind is Kind.EOS:
            return self.tokenizer.eos_token
        if piece.kind in (Kind.QUESTION, Kind.ANSWER):
            return as_text(piece.text, special)
        return piece.text

    def _chat(self, turns: int) -> Any:
        return chat_frames(self.tokenizer, turns, self._template)

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        questions: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of prompts that name `<image>` once per image, and their images in order.

        Args:
            images: one image, a list, or a list of each prompt's; None for none.
            text: one prompt or a list (`write` makes them of questions).
            return_tensors: as in transformers.
            questions: what each prompt asks in the turn of its images, for a connector that reads
                it; found in the prompt where it is not given.
            kwargs: go to the tokenizer (`padding`, ...).

        Returns `input_ids`, `attention_mask` [B,T], `pixel_values` [N,3,H,W] and `image_counts`,
        for such a connector also `question_ids` and `question_mask`. Raises ValueError where
        images and placeholders differ in number, and where no question is found.
        """
        if text is None:
            raise ValueError("EramvProcessor needs text")
        for other in ("videos", "audio"):  # `apply_chat_template` names them all
            if kwargs.pop(other, None) is not None:
                raise ValueError(f"EramvProcessor reads no {other}")
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = _flat(images)
        token = image_token(self.tokenizer)
        prompts = [prompt.replace(token, IMAGE) for prompt in prompts]
        counts = tuple(prompt.count(IMAGE) for prompt in prompts)
        if sum(counts) != len(pictures):
            raise ValueError(f"{sum(counts)} {IMAGE} in the text, but {len(pictures)} images")
        for i, given in enumerate(images if _by_prompt(images, prompts) else ()):
            if len(given) != counts[i]:
                raise ValueError(f"{len(given)} images of prompt {i}, which names {counts[i]}")
        data = self.rows(prompts, questions, return_tensors=return_tensors, **kwargs)
        if pictures:
            seen = self.image_processor(images=pictures, return_tensors=return_tensors)
            data["pixel_values"] = seen["pixel_values"]
        features = BatchFeature(data)
        features["image_counts"] = counts
        return features

    def rows(
        self, prompts: Sequence[str], questions: Sequence[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` [B,T] of prompts, no picture looked at.

        Each `<image>` becomes its rows; several prompts are padded on the left. `questions` as in
        a call; `kwargs` go to the tokenizer.
        """
        bos, token = self.tokenizer.bos_token, image_token(self.tokenizer)
        if bos and all(prompt.startswith(bos) for prompt in prompts):  # a chat template wrote it
            kwargs.setdefault("add_special_tokens", False)
        spread = [prompt.replace(IMAGE, token * self.visual_rows) for prompt in prompts]
        kwargs.setdefault("padding", len(prompts) > 1)
        kwargs.setdefault("padding_side", "left")
        data = dict(self.tokenizer(spread, **kwargs))
        data.pop("token_type_ids", None)
        if self.reads_question:
            data |= self._asked(prompts, questions, kwargs.get("return_tensors"))
        return data

    def _asked(
        self, prompts: Sequence[str], questions: Sequence[str] | None, return_tensors: str | None
    ) -> dict[str, Any]:
        """The words of the questions alone, padded right."""
        if questions is None:
            questions = [self._question_of(prompt) for prompt in prompts]
        special, pad = special_texts(self.tokenizer), self.tokenizer.pad_token_id
        texts = [as_text(question.strip(), special) for question in questions]
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        longest = max(map(len, rows))
        ids = [row + [pad] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        if return_tensors == "pt":
            ids, mask = (torch.tensor(rows, dtype=torch.long) for rows in (ids, mask))
        return {"question_ids": ids, "question_mask": mask}

    def _question_of(self, prompt: str) -> str:
        """What a written prompt asks in its first turn. Raises ValueError where it is not seen."""
        images, mark = prompt.count(IMAGE), "\ue000"
        head, found, tail = self.write(mark, images).partition(mark)
        if not found:  # a caption asks nothing
            return ""
        behind, image, _ = tail.partition(IMAGE)
        end = prompt.find(behind + image, len(head))
        if not prompt.startswith(head) or end < 0:
            raise ValueError(f"what is asked is not seen in {prompt[:80]!r}: give `questions`")
        return prompt[len(head) : end]

    @property
    def model_input_names(self) -> list[str]:
        """Names of what it returns."""
        own = ["question_ids", "question_mask"] if self.reads_question else []
        return ["input_ids", "attention_mask", "pixel_values", "image_counts", *own]

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers; what a model's connector does not read is not told."""
        plain = super().to_dict(*args, **kwargs)
        if not self.reads_question:
            plain.pop("reads_question", None)
        return plain


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        return [images]
    return [picture for one in images for picture in _flat(one)]


def _by_prompt(images: Any, prompts: Sequence[str]) -> bool:
    lists = isinstance(images, list | tuple) and all(isinstance(i, list | tuple) for i in images)
    return lists and len(images) == len(prompts)
