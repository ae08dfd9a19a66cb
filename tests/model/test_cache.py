"""The cache alone: what it says of its length, and rows taken back, repeated, chosen."""

from typing import Any

import pytest
import torch
from laws.whole import SYSTEMS, inputs, model_of, sample
from torch import Tensor

NAMES = ("plain", "bridge.mlp", "reducer.fastv", "fastv_joint", "image_first_before", "grid_ids")
NAMES += ("pyramid_next", "hidrop", "shortv_fastv")
POSITIONS = {"prompt": {"type": "question_first", "positions": "grid"}}


def ready(name: str) -> tuple[Any, Any, Any, Tensor]:
    """A model, a left-padded batch of two prompts in its cache, and four more words."""
    section = SYSTEMS["bridge.mlp"] | POSITIONS if name == "grid_ids" else SYSTEMS[name]
    model = model_of(section)
    samples = [sample(model, 5), sample(model, 8, (1,))]
    batch = inputs(model, samples, "left", upto="prompt")
    with torch.no_grad():
        past = model(**batch, use_cache=True).past_key_values
    return model, batch, past, torch.tensor([[11, 12, 13, 14], [15, 16, 17, 18]])


@torch.no_grad()
def step(model: Any, batch: Any, past: Any, words: Tensor) -> Tensor:
    mask = torch.cat(
        [batch["attention_mask"], torch.ones(len(words), past.get_seq_length(), dtype=torch.long)],
        dim=1,
    )[:, : past.get_seq_length() + words.shape[1]]
    return model(input_ids=words, attention_mask=mask, past_key_values=past, use_cache=True).logits


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_taken_back_leave_no_trace(name: str):
    model, batch, past, words = ready(name)
    length = past.get_seq_length()
    assert length == batch["input_ids"].shape[1]
    step(model, batch, past, words)
    assert past.get_seq_length() == length + 4
    past.crop(-3)
    assert past.get_seq_length() == length + 1
    past.crop(0)
    found = step(model, batch, past, words[:, 1:])
    _, _, fresh, _ = ready(name)
    expected = step(model, batch, fresh, words)[:, 1:]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_repeated_and_chosen(name: str):
    model, batch, past, words = ready(name)
    _, _, fresh, _ = ready(name)
    expected = step(model, batch, fresh, words)
    order = torch.tensor([1, 0, 0])
    past.batch_repeat_interleave(2)
    past.batch_select_indices(torch.tensor([3, 0, 1]))
    many = {"attention_mask": batch["attention_mask"][order]}
    found = step(model, many, past, words[order])
    torch.testing.assert_close(found, expected[order], atol=2e-5, rtol=2e-5)


def test_a_cache_that_is_reset_is_empty():
    model, batch, past, _ = ready("reducer.fastv")
    past.reset()
    assert past.get_seq_length() == 0
    with torch.no_grad():
        again = model(**batch, past_key_values=past, use_cache=True).logits
        torch.testing.assert_close(again, model(**batch).logits)


def test_each_layer_holds_the_rows_that_reach_it():
    _, batch, past, _ = ready("reducer.fastv")  # 5 visual rows, 3 of them gone before layer 2
    rows = batch["input_ids"].shape[1]
    held = [layer.keys.shape[2] for layer in past.self_attention_cache.layers]
    assert held[:2] == [rows, rows] and held[2] == held[3] < rows
