"""Scores by greedy generation: prompts of equal length together, so that no row needs padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eramv_lab.data.collate import Collator, conversations, repeat_images
from eramv_lab.data.shards import Asked
from eramv_lab.data.words import Words
from eramv_lab.evaluate import captions
from eramv_lab.evaluate.captions import CAPTION, Captioned
from eramv_lab.evaluate.statistics import wilson

Status = Literal["ok", "empty", "unparsed"]
Images = Callable[[Sequence[int]], Mapping[str, Any]]
"""Images by the number of their sample, as the model takes them: `pixel_values` or
`vision_features`."""


class Query(NamedTuple):
    """One question to be answered, and what stands before it."""

    number: int
    """Of its sample, for `Images`."""
    image: str
    """Key of its sample."""
    asked: Asked
    before: tuple[Asked, ...] = ()
    """Earlier turns of its conversation, whose right answers the model is told."""
    pictured: bool = True
    """Whether its sample has an image."""

    @property
    def turns(self) -> tuple[Asked, ...]:
        """The conversation up to it."""
        return (*self.before, self.asked)


def queries(
    number: int, image: str, questions: Sequence[Asked], pictured: bool = True
) -> list[Query]:
    """Every question of a sample, each with the turns before it."""
    return [
        Query(number, image, asked, tuple(turns[:place]), pictured)
        for turns in conversations(questions)
        for place, asked in enumerate(turns)
    ]


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
    caption: Captioned | None = None
    """What a caption's own rules say of it; None for every other answer."""

    def row(self) -> dict[str, Any]:
        """As plain data."""
        plain = asdict(self)
        return plain if self.caption else {k: v for k, v in plain.items() if k != "caption"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The predictions of one model on one split, questions in the order of the data."""

    predictions: tuple[Prediction, ...]

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of an answer's word, nats."""
        return sum(p.nll for p in self.predictions) / len(self.predictions)

    def rate(self, kind: str | None = None) -> dict[str, float]:
        """`accuracy`, `low`, `high` (Wilson), `n`; of one question type, or of all but captions.

        Captions have scores of their own (`captions`): a whole one is rarely right word by word.
        Where nothing else is asked they count after all.
        """
        kinds = {p.type for p in self.predictions}
        kinds = {kind} if kind else kinds - {CAPTION} or kinds
        scores = [p.score for p in self.predictions if p.type in kinds]
        right = sum(scores)
        low, high = wilson(right, len(scores))
        return {"accuracy": right / len(scores), "low": low, "high": high, "n": len(scores)}

    def per_type(self) -> dict[str, dict[str, float]]:
        """`rate` of every question type, by name."""
        return {kind: self.rate(kind) for kind in sorted({p.type for p in self.predictions})}

    def captions(self) -> dict[str, float]:
        """Means over the captions: `cider`, and where they tell facts `facts` (F1) and its parts.

        Empty where no caption was asked for.
        """
        return captions.means(p.caption for p in self.predictions)

    def told(self) -> dict[str, Any]:
        """What a result says of it: `rate`, `captions`, `loss`, and `per_type`."""
        return {
            **self.rate(),
            **self.captions(),
            "loss": self.loss,
            "per_type": self.per_type(),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """The predictions as plain data."""
        return (p.row() for p in self.predictions)


def evaluate(
    model: Any,
    questions: Sequence[Query],
    images: Images,
    collator: Collator,
    *,
    batch: int = 256,
    max_new_tokens: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Ask `model` every one of `questions` (`queries` makes them).

    `images` is never asked for a sample without one. `batch` is the number of questions answered
    together. The model is put in eval mode, and back. An answer is right where it ended and its
    words are those expected. `progress` is called with the number of questions done.
    """
    prompts = [collator.prompt_ids(query.turns, query.pictured) for query in questions]
    device = next(model.parameters()).device
    found: dict[int, Prediction] = {}
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            lengths = [len(ids) for ids in prompts]
            captioned = [query.asked.type == CAPTION for query in questions]
            for numbers in batches([*zip(captioned, lengths, strict=True)], batch):
                group = [questions[n] for n in numbers]
                inputs = _inputs(group, [prompts[n] for n in numbers], images, collator, device)
                answers_BT, nll_B = _answer(model, inputs, group, collator, max_new_tokens)
                for n, ids, nll in zip(numbers, answers_BT.tolist(), nll_B.tolist(), strict=True):
                    found[n] = _judge(questions[n], ids, nll, collator.words)
                if progress:
                    progress(len(found))
    finally:
        model.train(training)
    return Evaluation(predictions=_captioned(questions, [found[n] for n in range(len(questions))]))


def _captioned(questions: Sequence[Query], found: list[Prediction]) -> tuple[Prediction, ...]:
    """The predictions, the captions among them scored together."""
    places = [n for n, query in enumerate(questions) if query.asked.type == CAPTION]
    references = [(questions[n].asked.answer, *questions[n].asked.references) for n in places]
    scores = captions.scored([found[n].prediction for n in places], references)
    for n, score in zip(places, scores, strict=True):
        found[n] = replace(found[n], caption=score)
    return tuple(found)


def batches(kinds: Sequence[tuple[Any, ...]], batch: int) -> Iterator[list[int]]:
    """Numbers of prompts of one kind, in batches: equally long, and captions apart, since a batch
    goes on for as long as its longest answer."""
    by_kind: dict[tuple[Any, ...], list[int]] = {}
    for number, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(number)
    for kind in sorted(by_kind):
        numbers = by_kind[kind]
        yield from (numbers[i : i + batch] for i in range(0, len(numbers), batch))


def _inputs(
    asked: Sequence[Query],
    prompts: Sequence[list[int]],
    images: Images,
    collator: Collator,
    device: Any,
) -> dict[str, Any]:
    numbers = sorted({query.number for query in asked if query.pictured})
    place = {number: i for i, number in enumerate(numbers)}
    shown = [place[query.number] for query in asked if query.pictured]
    ids_BT = torch.tensor(prompts)
    inputs: dict[str, Any] = {
        "input_ids": ids_BT,
        "attention_mask": torch.ones_like(ids_BT),
        "image_counts": tuple(int(query.pictured) for query in asked),
        "image_index": torch.tensor(shown, dtype=torch.long),
        **collator.asked([query.turns for query in asked], [query.pictured for query in asked]),
    }
    seen = images(numbers) if numbers else {}
    return move(repeat_images(inputs | dict(seen)), device)


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
    asked: Sequence[Query],
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
        eos_token_id=list(words.stops),
        pad_token_id=words.pad,
        return_dict_in_generate=True,
        output_logits=True,
    )
    right = [collator.answer_ids(query.turns, query.pictured) for query in asked]
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
    padded = [ids + [pad] * (longest - len(ids)) for ids in right]
    ids_BT = torch.tensor(padded, dtype=torch.long, device=device)
    lengths_B1 = torch.tensor([[len(ids)] for ids in right], device=device)
    real_BT = torch.arange(longest, device=device) < lengths_B1
    whole = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], ids_BT], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], real_BT.long()], 1),
    }
    logits_BTK = model(**whole, logits_to_keep=longest + 1).logits[:, :-1].float()
    nll_BT = F.cross_entropy(logits_BTK.transpose(1, 2), ids_BT, reduction="none")
    return (nll_BT * real_BT).sum(1) / real_BT.sum(1).clamp(min=1)


def _judge(query: Query, ids: list[int], nll: float, words: Words) -> Prediction:
    asked = query.asked
    end = next((n for n, i in enumerate(ids) if i in words.stops), None)
    said = words.text(ids[:end]).split()
    status: Status = "empty" if not said else "unparsed" if end is None else "ok"
    return Prediction(
        key=asked.key,
        image=query.image,
        type=asked.type,
        question=asked.question,
        prediction=" ".join(said),
        answer=asked.answer,
        score=float(end is not None and said == asked.answer.split()),
        status=status,
        nll=nll,
    )
