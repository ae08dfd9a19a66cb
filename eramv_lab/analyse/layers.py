"""Which layers need the visual rows: the rules by which VTW and ShortV choose theirs.

Both compare the next word's distribution after a prompt, with and without an intervention, by
KL(with it || without it): their code gives `KLDivLoss` the log-probabilities of the untouched model
as input and the probabilities of the changed one as target. Mean over prompts, nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eramv_lab.data.collate import Batch, Collator, repeat_images
from eramv_lab.data.examples import Examples
from eramv_lab.slots.reducers import Event

TOLERANCE = 0.003
"""VTW's for LLaVA-1.5-7B; its .0005 is for 13B."""


class Withdrawal(NamedTuple):
    """The answer of VTW's rule."""

    layer: int | None
    """K, for `reducer: {type: vtw, layer: K}`; None: no candidate is within the tolerance."""
    divergences: dict[int, float]
    """Mean divergence with every visual row gone before each candidate layer."""


def withdrawal(
    model: Any,
    prompts: Iterable[Mapping[str, Any]],
    *,
    first: int | None = None,
    tolerance: float = TOLERANCE,
) -> Withdrawal:
    """The first layer before which all visual rows can leave (VTW, arXiv 2405.05803).

    `prompts` are batches as `forward` takes them, padded left, a row a question (`calibration`
    gives them; their code: 20 samples); `first` is the first candidate, 5 of 32 scaled to the
    depth if not given. The first whose mean divergence is not above `tolerance` is taken. Raises
    ValueError without a prompt.
    """
    depth = len(model.language_model.layers)
    start = max(1, (10 * depth + 32) // 64) if first is None else first
    divergences = _divergences(
        model, prompts, {layer: (Event(layer=layer),) for layer in range(start, depth)}
    )
    within = [layer for layer, found in divergences.items() if found <= tolerance]
    return Withdrawal(within[0] if within else None, divergences)


def contributions(model: Any, prompts: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Divergence with the visual rows frozen in one layer alone, by layer (ShortV, 2504.00502).

    In that layer they make no query and pass neither W_o nor the feed-forward. `prompts` as for
    `withdrawal` (their code: 40 samples of a VQA and a captioning task).
    """
    depth = len(model.language_model.layers)
    freezing = {layer: (Event(layer=layer, kind="freeze"),) for layer in range(depth)}
    return _divergences(model, prompts, freezing)


def freezing_order(contribution: Mapping[int, float]) -> tuple[int, ...]:
    """Layers for `reducer: {type: shortv, order: ...}`: least contribution first; of equals the
    deeper one."""
    return tuple(sorted(contribution, key=lambda layer: (contribution[layer], -layer)))


def calibration(
    examples: Examples, collator: Collator, numbers: Sequence[int], batch: int = 10
) -> Iterator[Batch]:
    """Prompts of these samples of a split (`val`, never what is scored in the end).

    `examples` are those of `LabData.examples`; every question that they give is a prompt.
    """
    for start in range(0, len(numbers), batch):
        fetched = examples.__getitems__(numbers[start : start + batch])
        prompts = collator.prompts(fetched.questions, fetched.pictured)
        del prompts["asked"]
        yield repeat_images(prompts | fetched.vision)


def _divergences(
    model: Any, prompts: Iterable[Mapping[str, Any]], changes: Mapping[int, Sequence[Event]]
) -> dict[int, float]:
    """Mean KL(changed || as it is, without any reducer) of the next word, by change."""
    sums, count = dict.fromkeys(changes, 0.0), 0
    training = model.training
    model.eval()
    try:
        for batch in prompts:
            whole = _next_word(model, batch, ())
            count += len(whole)
            for name, events in changes.items():
                changed = _next_word(model, batch, events)
                sums[name] += float((changed.exp() * (changed - whole)).sum())
    finally:
        model.train(training)
    if not count:
        raise ValueError("no prompt to measure by")
    return {name: total / count for name, total in sums.items()}


@torch.no_grad()
def _next_word(model: Any, batch: Mapping[str, Any], events: Sequence[Event]) -> Tensor:
    """[B,K] log-probabilities of the word after each prompt."""
    with _having(model, events):
        logits = model(**batch, logits_to_keep=1).logits
    return logits[:, -1].double().log_softmax(dim=-1)


@contextmanager
def _having(model: Any, events: Sequence[Event]) -> Iterator[None]:
    """The model with these events in place of its own."""
    own, model.events = model.events, tuple(events)
    try:
        yield
    finally:
        model.events = own
