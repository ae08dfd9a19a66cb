"""Law 7: cached decoding is one full forward, and neither padding nor company changes a sample."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laws.whole import EACH, IMAGE, Sample, inputs, said, sample, shared

each = pytest.mark.parametrize("name", EACH)
SIDES = ("right", "left")


def close(found: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5, msg=lambda m: f"{what}: {m}")


def company(model: Any) -> list[Sample]:
    """Samples of different length, one without an image."""
    return [
        sample(model, words=5),
        sample(model, words=9, pictures=(1,)),
        sample(model, words=4, pictures=()),
    ]


@torch.no_grad()
def decoded(model: Any, samples: list[Sample], chunks: tuple[int, ...]) -> list[Tensor]:
    """Logits from the prompt's last row on: prefill, then the answer in chunks, from the cache."""
    batch = inputs(model, samples, "left", upto="prompt")
    mask = batch["attention_mask"]
    out = model(**batch, use_cache=True)
    found, at = [out.logits[:, -1:]], 0
    answers = torch.tensor([s.ids[s.prompt :] for s in samples])
    for rows in chunks:
        mask = torch.cat([mask, mask.new_ones(len(samples), rows)], dim=1)
        out = model(
            input_ids=answers[:, at : at + rows],
            attention_mask=mask,
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        found.append(out.logits)
        at += rows
    return list(torch.cat(found, dim=1))


SINGLY, CHUNK = (1, 1, 1, 1), pytest.param((1, 3), marks=pytest.mark.slow)


@each
@pytest.mark.parametrize("chunks", [SINGLY, CHUNK], ids=["singly", "chunk"])
def test_prefill_and_cached_steps_are_one_forward(name: str, chunks: tuple[int, ...]):
    model = shared(name)
    one = sample(model)
    close(decoded(model, [one], chunks)[0], said(model, [one])[0][-5:])


@each
def test_padding_and_company_change_nothing(name: str):
    model = shared(name)
    samples = company(model)
    alone = [said(model, [s])[0] for s in samples]
    for side in SIDES:
        for chosen in ([0, 1], [0, 2], [0, 1, 2]):
            together = said(model, [samples[i] for i in chosen], side)
            for i, row in zip(chosen, together, strict=True):
                close(row, alone[i], f"{side}, sample {i} of {chosen}")


@each
def test_a_cached_batch_is_its_samples(name: str):
    model = shared(name)
    samples = company(model)
    for row, one in zip(decoded(model, samples, (1, 2, 1)), samples, strict=True):
        close(row, said(model, [one])[0][-5:])


@each
def test_two_images_in_company(name: str):
    model = shared(name)
    samples = [sample(model, pictures=(0, 2)), sample(model, words=8, pictures=(1,))]
    alone = [said(model, [s])[0] for s in samples]
    for side in SIDES:
        for row, expected in zip(said(model, samples, side), alone, strict=True):
            close(row, expected, side)
    for row, one in zip(decoded(model, samples, (1, 3)), samples, strict=True):
        close(row, said(model, [one])[0][-5:])


@torch.no_grad()
def greedy(model: Any, one: Sample, steps: int) -> list[int]:
    """Without a cache: the whole sequence again for every word."""
    ids = list(one.ids[: one.prompt])
    for _ in range(steps):
        longer = replace(one, ids=tuple(ids), prompt=len(ids))
        batch = inputs(model, [longer], upto="prompt")
        end = torch.tensor([one.prompt - 1])
        logits = model(**batch, prompt_end=end).logits[0, -1]
        ids.append(int(logits.index_fill(0, torch.tensor([IMAGE]), -torch.inf).argmax()))
    return ids[one.prompt :]


@pytest.mark.parametrize("name", ["fastv_joint", "pyramid", "reducer.fastv"])
def test_a_prompt_without_an_answer_ranks_by_its_last_row(name: str):
    model = shared(name)
    batch = inputs(model, company(model), "left", upto="prompt")
    with torch.no_grad():
        expected = model(**batch).logits
        unlabelled = torch.full_like(batch["input_ids"], -100)
        found = model(**batch, labels=unlabelled).logits
    close(found, expected)


WORDS: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None, "suppress_tokens": [IMAGE]}
GENERATING = ("plain", "bridge.mlp", "vica", "flamingo", "fastv_joint", "pyramid", "qwen3")
GENERATING += ("instructblip", "perceiver")


@pytest.mark.parametrize("name", GENERATING)
def test_generate_is_greedy_decoding(name: str):
    model = shared(name)
    samples = company(model)
    batch = inputs(model, samples, "left", upto="prompt")
    found = model.generate(**batch, **WORDS)[:, -4:].tolist()
    assert found == [greedy(model, one, 4) for one in samples]
    uncached = model.generate(**batch, **WORDS, use_cache=False)[:, -4:].tolist()
    assert uncached == found


@pytest.mark.parametrize("name", GENERATING)
def test_one_beam_is_greedy_and_beams_do_not_mix_samples(name: str):
    model = shared(name)
    samples = company(model)
    more = {**WORDS, "num_beams": 3}
    together = model.generate(**inputs(model, samples, "left", upto="prompt"), **more)
    for row, one in zip(together, samples, strict=True):
        alone = model.generate(**inputs(model, [one], "left", upto="prompt"), **more)[0]
        new, expected = row[-4:].tolist(), alone[-4:].tolist()
        assert new == expected
