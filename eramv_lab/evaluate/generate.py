"""Scores by greedy generation: prompts of equal length together, one prefill, a step or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eramv_lab.data.collate import Collator, repeat_images
from eramv_lab.data.shards import Asked
from eramv_lab.data.world.vocabulary import WORDS
from eramv_lab.evaluate.statistics import wilson

Status = Literal["ok", "empty", "unparsed"]
Images = Callable[[Sequence[int]], Mapping[str, Any]]
"""Images by their number, as the model takes them: `pixel_values` or `vision_features`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answered question, a line of `predictions.jsonl`."""

    key: str
    image: str
    type: str
    question: str
    prediction: str
    answer: str
    score: float
    status: Status
    """`empty`: no word came; `unparsed`: the answer had no end within the tokens allowed."""
    nll: float
    """Negative log-likelihood of the answer's words, nats, mean over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The predictions of one model on one split, questions in the order of the data."""

    predictions: tuple[Prediction, ...]

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of an answer's word, nats."""
        return sum(p.nll for p in self.predictions) / len(self.predictions)

    def rate(self, kind: str | None = None) -> dict[str, float]:
        """`accuracy`, `low`, `high` (Wilson), `n`; of one question type or of all."""
        scores = [p.score for p in self.predictions if kind in (None, p.type)]
        right = sum(scores)
        low, high = wilson(right, len(scores))
        return {"accuracy": right / len(scores), "low": low, "high": high, "n": len(scores)}

    def per_type(self) -> dict[str, dict[str, float]]:
        """`rate` of every question type, by name."""
        return {kind: self.rate(kind) for kind in sorted({p.type for p in self.predictions})}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The predictions as plain data."""
        return (asdict(p) for p in self.predictions)


def evaluate(
    model: Any,
    questions: Sequence[tuple[int, str, Asked]],
    images: Images,
    collator: Collator,
    *,
    batch: int = 256,
    max_new_tokens: int = 2,
    text: Callable[[Sequence[int]], str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Ask `model` every one of `questions`: (number of the image, its key, what is asked).

    `batch` is the number of questions answered together, `text` turns ids into words (default:
    the made world's). The model is put in eval mode, and back. Answers are told apart by exact
    match of their words. `progress` is called with the number of questions done.
    """
    write = text or world_text
    device = next(model.parameters()).device
    found: dict[int, Prediction] = {}
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for numbers in batches([q[2].question for q in questions], collator, batch):
                asked = [questions[n] for n in numbers]
                inputs = _inputs(asked, images, collator, device)
                answers_BT, nll_B = _answer(model, inputs, asked, collator, max_new_tokens)
                for n, ids, nll in zip(numbers, answers_BT.tolist(), nll_B.tolist(), strict=True):
                    found[n] = _judge(questions[n], ids, nll, collator.words.eos, write)
                if progress:
                    progress(len(found))
    finally:
        model.train(training)
    return Evaluation(predictions=tuple(found[n] for n in range(len(questions))))


def world_text(ids: Sequence[int]) -> str:
    """Words of ids of the made world."""
    return " ".join(WORDS[i] if i < len(WORDS) else f"<{i}>" for i in ids)


def batches(texts: Sequence[str], collator: Collator, batch: int) -> Iterator[list[int]]:
    """Numbers of questions whose prompts are equally long, in batches; no row needs padding."""
    by_length: dict[int, list[int]] = {}
    for number, question in enumerate(texts):
        by_length.setdefault(len(collator.prompt_ids(question)), []).append(number)
    for length in sorted(by_length):
        numbers = by_length[length]
        yield from (numbers[i : i + batch] for i in range(0, len(numbers), batch))


def _inputs(
    asked: Sequence[tuple[int, str, Asked]], images: Images, collator: Collator, device: Any
) -> dict[str, Any]:
    numbers = sorted({number for number, _, _ in asked})
    place = {number: i for i, number in enumerate(numbers)}
    inputs = collator.prompts([[a] for _, _, a in asked])
    del inputs["asked"]
    inputs["image_index"] = torch.tensor([place[number] for number, _, _ in asked])
    return move(repeat_images(inputs | dict(images(numbers))), device)


def move(value: Any, device: Any) -> Any:
    """Tensors of nested mappings on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: move(v, device) for name, v in value.items()}
    return value


def _answer(
    model: Any,
    inputs: dict[str, Any],
    asked: Sequence[tuple[int, str, Asked]],
    collator: Collator,
    max_new_tokens: int,
) -> tuple[Tensor, Tensor]:
    """New ids [B,T] and the likelihood of the right answers [B]."""
    rows = inputs["input_ids"].shape[1]
    words = collator.words
    out = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=words.eos,
        pad_token_id=words.pad,
        return_dict_in_generate=True,
        output_logits=True,
    )
    right = [words.encode(a.answer) for _, _, a in asked]
    if all(len(ids) == 1 for ids in right):  # the prefill has said it already
        target_B = torch.tensor([ids[0] for ids in right], device=out.logits[0].device)
        nll_B = F.cross_entropy(out.logits[0].float(), target_B, reduction="none")
    else:
        nll_B = _teacher_forced(model, inputs, right, words.pad)
    return out.sequences[:, rows:], nll_B


def _teacher_forced(model: Any, inputs: dict[str, Any], right: list[list[int]], pad: int) -> Tensor:
    """Mean negative log-likelihood [B] of answers of several words behind their prompts."""
    longest = max(len(ids) for ids in right)
    device = inputs["input_ids"].device
    ids_BT = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in right], device=device)
    real_BT = torch.tensor([[n < len(ids) for n in range(longest)] for ids in right], device=device)
    whole = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], ids_BT], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], real_BT.long()], 1),
    }
    logits_BTK = model(**whole, logits_to_keep=longest + 1).logits[:, :-1].float()
    nll_BT = F.cross_entropy(logits_BTK.transpose(1, 2), ids_BT, reduction="none")
    return (nll_BT * real_BT).sum(1) / real_BT.sum(1)


def _judge(
    question: tuple[int, str, Asked],
    ids: list[int],
    nll: float,
    eos: int,
    write: Callable[[Sequence[int]], str],
) -> Prediction:
    _, image, asked = question
    ended = eos in ids
    words = write(ids[: ids.index(eos)] if ended else ids).split()
    status: Status = "empty" if not words else "ok" if ended else "unparsed"
    return Prediction(
        key=asked.key,
        image=image,
        type=asked.type,
        question=asked.question,
        prediction=" ".join(words),
        answer=asked.answer,
        score=float(words == asked.answer.split()),
        status=status,
        nll=nll,
    )
