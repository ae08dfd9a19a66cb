"""`eramv`, the model of lmms-eval: a model folder answers the tasks that lmms-eval knows.

lmms-eval finds it by the entry point `eramv` of the group `lmms_eval.models`:

    lmms-eval eval --model eramv --model_args pretrained=FOLDER --tasks mme --batch_size 8

Both of its interfaces are there: chat (messages, its default) and, with `--force_simple`, simple
(a context and its images), which multiple choice by likelihood needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lmms_eval.api.instance import (  # pyright: ignore[reportMissingImports]
    GenerationResult,
    TokenCounts,
)
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from torch import Tensor

from eramv_lab.errors import UserError
from eramv_lab.evaluate.generate import move
from eramv_lab.integrations.lmms_options import Options
from eramv_lab.integrations.lmms_text import (
    Talk,
    cut,
    generation_settings,
    talk_of_messages,
    talk_of_visuals,
)
from eramv_lab.slots.language.tokens import IMAGE, image_token


def manifest() -> Any:
    """What the entry point gives: where both classes lie."""
    from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]
        ModelManifest,
    )

    return ModelManifest(
        model_id="eramv",
        simple_class_path=f"{__name__}.Eramv",
        chat_class_path=f"{__name__}.EramvChat",
    )


class Wanted(NamedTuple):
    """One request, taken apart."""

    context: str
    give: Callable[[Any], Any]
    """What the task shows of a document: its images, or its messages."""
    rest: Any
    """Settings of the generation; or the continuation that is to be scored, or what gives it."""
    doc: Any
    place: str
    """Task and document, as errors name them."""


class Eramv(lmms):
    """A model folder behind the simple interface.

    Takes `Options` (`--model_args`, `--batch_size`, `--device`) by name; raises UserError for one
    that is unknown or wrong.
    """

    is_simple = True

    def __init__(self, **options: Any) -> None:
        from accelerate import Accelerator

        super().__init__()
        self.options = Options.of(options)
        self.accelerator = Accelerator()  # data parallel: each process takes its share of requests
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        many = self._world_size > 1
        self.device = self.accelerator.device if many else self.options.place()
        model, self.processor = self.options.load()
        self.model: Any = model.to(self.device).eval()

    @property
    def batch_size(self) -> int:
        """Requests answered together."""
        return self.options.batch_size

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the requests, each cut at the first of its `until`."""

        def answer(wanted: Sequence[Wanted]) -> list[Any]:
            return self._generate(wanted, wanted[0].rest)

        return self._by_batch(requests, answer, "answers")

    @torch.inference_mode()
    def _generate(self, wanted: Sequence[Wanted], settings: Mapping[str, Any]) -> list[Any]:
        talks = [self._talk(one.context, one.give(one.doc)) for one in wanted]
        prompts = [self.processor.write(t.question, len(t.images), t.history) for t in talks]
        inputs = self._inputs(prompts, talks, wanted)
        ids_BT = self.model.generate(
            **inputs,
            **generation_settings(settings, self.options.max_new_tokens),
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        shown = inputs["attention_mask"].sum(1).tolist()
        return [self._said(*row, settings) for row in zip(ids_BT.tolist(), shown, strict=True)]

    def _said(self, ids: list[int], shown: int, settings: Mapping[str, Any]) -> Any:
        """The answer in the new ids of a row, behind `shown` tokens."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        end = next((n for n, i in enumerate(ids) if i in ends), len(ids))
        text = self.processor.tokenizer.decode(ids[:end], skip_special_tokens=True)
        counts = TokenCounts(input_tokens=shown, output_tokens=min(end + 1, len(ids)))
        return GenerationResult(text=cut(text, settings.get("until")), token_counts=counts)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """For each request (negative log-likelihood of its continuation in nats, whether greedy).

        The sum over the continuation's tokens, written as training writes an answer. Turned
        round, because lmms-eval takes the smallest for the best ("models return loss"); and in a
        `GenerationResult`, because it makes text of a bare tuple.
        """
        return self._by_batch(requests, self._score, "likelihoods")

    @torch.inference_mode()
    def _score(self, wanted: Sequence[Wanted]) -> list[Any]:
        talks = [self._talk(one.context, one.give(one.doc)) for one in wanted]
        says = [one.rest(one.doc) if callable(one.rest) else one.rest for one in wanted]
        asked = [(t.question, len(t.images), t.history) for t in talks]
        starts = [self._length(self.processor.write(*ask)) for ask in asked]
        texts = [
            self.processor.write(*ask, answer=str(said))
            for ask, said in zip(asked, says, strict=True)
        ]
        inputs = self._inputs(texts, talks, wanted, return_offsets_mapping=True)
        ends_BT = inputs.pop("offset_mapping")[..., 1]  # 0 where there is no text
        said_BT = ends_BT > torch.tensor(starts, device=ends_BT.device)[:, None]
        said_B = said_BT.sum(1)
        most, width = int(said_B.max()), said_BT.shape[1]
        logits_BTK = self.model(
            **inputs, prompt_end=width - 1 - said_B, logits_to_keep=most + 1
        ).logits[:, :-1]
        scores_B, greedy_B = _likelihood(
            logits_BTK.float(), inputs["input_ids"][:, -most:], said_BT[:, -most:]
        )
        rows = zip(scores_B.tolist(), greedy_B.tolist(), strict=True)
        return [GenerationResult(text=(-score, greedy)) for score, greedy in rows]

    def _length(self, prompt: str) -> int:
        """Characters of a prompt as the tokenizer gets it."""
        token = image_token(self.processor.tokenizer)
        return len(prompt.replace(IMAGE, token * self.processor.visual_rows))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Raises UserError: a later round's prompt comes from the answer of the one before."""
        tasks = ", ".join(sorted({str(request.args[-2]) for request in requests}))
        raise UserError(f"eramv answers a question in one round; tasks of several rounds: {tasks}")

    def _inputs(
        self, texts: list[str], talks: Sequence[Talk], wanted: Sequence[Wanted], **how: Any
    ) -> dict[str, Any]:
        """Model inputs on the device. Raises UserError for text that the model has no words for."""
        images = [image for talk in talks for image in talk.images]
        asked = [talk.history[0][0] if talk.history else talk.question for talk in talks]
        try:
            inputs = self.processor(images=images, text=texts, questions=asked, **how)
        except Exception as error:  # a closed vocabulary raises a bare Exception
            places = ", ".join(one.place for one in wanted)
            raise UserError(
                f"the processor of {self.options.pretrained} refuses what is asked in one of "
                f"{places}: {error}"
            ) from error
        return move(dict(inputs), self.device)

    def _by_batch(
        self,
        requests: Sequence[Any],
        answer: Callable[[Sequence[Wanted]], list[Any]],
        what: str,
    ) -> list[Any]:
        """Results in the order of the requests; those of equal settings, and about equally long
        contexts, are answered together."""
        from rich.progress import track

        groups = list(self._batches(requests))
        found: dict[int, Any] = {}
        for numbers in track(groups, f"eramv: {what}", disable=self.rank != 0):
            results = answer([self._wanted(requests[n]) for n in numbers])
            found.update(zip(numbers, results, strict=True))
        return [found[n] for n in range(len(requests))]

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            settings = next((arg for arg in request.args if isinstance(arg, dict)), None)
            groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(number)
        for numbers in groups.values():
            numbers.sort(key=lambda n: len(requests[n].args[0]), reverse=True)
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    def _wanted(self, request: Any) -> Wanted:
        context, *two, number, task, split = request.args
        give, rest = self._two(*two)
        return Wanted(context, give, rest, self.task_dict[task][split][number], f"{task} {number}")

    def _two(self, first: Any, second: Any) -> tuple[Any, Any]:
        """What a task shows, and the rest, as they stand in a request."""
        return second, first

    def _talk(self, context: str, shown: Any) -> Talk:
        return talk_of_visuals(context, shown)


class EramvChat(Eramv):
    """A model folder behind the chat interface, which knows no likelihoods."""

    is_simple = False

    def _two(self, first: Any, second: Any) -> tuple[Any, Any]:
        return first, second

    def _talk(self, context: str, shown: Any) -> Talk:
        return talk_of_messages(shown)


def _likelihood(logits_BTK: Tensor, ids_BT: Tensor, said_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood [B] of the ids where something is said, and whether all of them are likeliest.

    `logits_BTK` are those that predict `ids_BT`.
    """
    log_BT = logits_BTK.log_softmax(-1).gather(-1, ids_BT[..., None])[..., 0]
    best_BT = (logits_BTK.argmax(-1) == ids_BT) | ~said_BT
    return log_BT.masked_fill(~said_BT, 0).sum(1), best_BT.all(1)
