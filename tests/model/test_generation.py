"""`generate`: greedy, sampling and beams, with images in some samples, and a second turn."""

from typing import Any

import pytest
import torch
from laws.test_decoding import greedy
from laws.whole import IMAGE, SYSTEMS, inputs, model_of, sample
from torch import Tensor

WORDS: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None}
NAMES = ("plain", "bridge.mlp", "reducer.fastv", "fastv_joint", "pyramid_next", "hidrop")


def company(model: Any) -> list[Any]:
    """Two images, none, one."""
    return [sample(model, 5, (0, 2)), sample(model, 4, ()), sample(model, 9, (1,))]


def answers(model: Any, samples: list[Any], **how: Any) -> Tensor:
    return model.generate(**inputs(model, samples, "left", upto="prompt"), **WORDS, **how)[:, -6:]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_the_likeliest_word_again_and_again(name: str):
    model = model_of(SYSTEMS[name])
    samples = company(model)
    assert answers(model, samples).tolist() == [greedy(model, one, 6) for one in samples]


@pytest.mark.parametrize("name", NAMES)
def test_prompt_lookup_is_greedy(name: str):
    model = model_of(SYSTEMS[name])
    for one in company(model):
        found = answers(model, [one], prompt_lookup_num_tokens=3)
        assert torch.equal(found, answers(model, [one]))


@pytest.mark.parametrize("name", ["bridge.mlp", "fastv_joint"])
def test_an_assistant_that_is_mostly_wrong_changes_nothing(name: str):
    model, assistant = model_of(SYSTEMS[name]), model_of(SYSTEMS["plain"])
    one = company(model)[0]
    found = answers(model, [one], assistant_model=assistant)
    assert torch.equal(found, answers(model, [one]))


def test_sampling_follows_the_seed():
    model = model_of(SYSTEMS["bridge.mlp"])
    how: dict[str, Any] = {"do_sample": True, "num_return_sequences": 3}

    def drawn(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return answers(model, company(model), **how)

    assert drawn(0).shape == (9, 6)
    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    assert IMAGE not in drawn(0)


@pytest.mark.parametrize("name", NAMES)
def test_beams_of_a_batch_are_those_of_its_samples(name: str):
    model = model_of(SYSTEMS[name])
    samples, how = company(model), {"num_beams": 3, "num_return_sequences": 2}
    together = answers(model, samples, **how)
    assert together.shape == (6, 6)
    for one, rows in zip(samples, together.split(2), strict=True):
        assert torch.equal(rows, answers(model, [one], **how))


def test_beams_repeat_cached_features_with_their_samples():
    model = model_of(SYSTEMS["bridge.mlp"])
    batch = inputs(model, company(model), "left", upto="prompt")
    expected = model.generate(**batch, **WORDS, num_beams=2)
    seen = model.see(batch.pop("pixel_values"), None)
    features = {"states": seen.states_NPV, "cls_attention": seen.cls_attention_NHP}
    if seen.cls_NV is not None:
        features["cls"] = seen.cls_NV
    with torch.no_grad():
        found = model.generate(**batch, **WORDS, num_beams=2, vision_features=features)
    assert torch.equal(found, expected)


def turns(model: Any) -> tuple[Any, Any, Tensor]:
    """The first turn's inputs, what `generate` returned, and the whole dialogue's ids."""
    batch = inputs(model, [sample(model)], "left", upto="prompt")
    first = model.generate(**batch, **WORDS, return_dict_in_generate=True)
    return batch, first, torch.cat([first.sequences, torch.tensor([[11, 12, 13, 4]])], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_turn_goes_on_from_the_cache(name: str):
    model = model_of(SYSTEMS[name])
    batch, first, ids = turns(model)
    found = model.generate(input_ids=ids, past_key_values=first.past_key_values, **WORDS)
    end = torch.tensor([batch["input_ids"].shape[1] - 1])  # rows left by what the first turn asked
    whole = {"input_ids": ids, "pixel_values": batch["pixel_values"], "prompt_end": end}
    assert torch.equal(found, model.generate(**whole, **WORDS))


@pytest.mark.parametrize("name", ["plain", "bridge.mlp"])
@pytest.mark.parametrize("pixels", [True, False])
def test_an_image_in_a_later_turn_is_refused(name: str, pixels: bool):
    model = model_of(SYSTEMS[name])
    batch, first, ids = turns(model)
    later = torch.cat([ids, torch.tensor([[IMAGE] * model.visual_rows + [4]])], dim=1)
    past, more = first.past_key_values, {}
    if pixels:
        more = {"pixel_values": batch["pixel_values"]}
    with pytest.raises(ValueError, match="image in a later turn"):
        model.generate(input_ids=later, past_key_values=past, **more, **WORDS)
    rest = later[:, past.get_seq_length() :]
    with pytest.raises(ValueError, match="image in a later turn"):
        model(input_ids=rest, past_key_values=past, **more)


def test_an_image_after_a_turn_of_words_is_refused():
    model = model_of(SYSTEMS["bridge.mlp"])
    words = inputs(model, [sample(model, pictures=())], upto="prompt")
    past = model.generate(**words, **WORDS, return_dict_in_generate=True).past_key_values
    batch = inputs(model, [sample(model)], upto="prompt")
    with pytest.raises(ValueError, match="image in a later turn"):
        model(
            input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], past_key_values=past
        )


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_generates(name: str):
    model = model_of(SYSTEMS[name]).to(torch.bfloat16)
    assert answers(model, company(model)).shape == (3, 6)  # pixels are float32, as processors give


def test_attention_maps_by_layer():
    model = model_of(SYSTEMS["bridge.mlp"])  # 4 layers of 4 heads, a band in 1 and 2, 16 features
    batch = inputs(model, company(model), "left", upto="prompt")
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        model(**batch, output_attentions=True)
    model.set_attn_implementation("eager")
    more = {"output_attentions": True, "return_dict_in_generate": True}
    out = model.generate(**batch, **WORDS, **more)
    rows = batch["input_ids"].shape[1]
    assert len(out.attentions) == 6
    for new, layers in enumerate(out.attentions):
        asked = rows if new == 0 else 1
        for i, (own, cross) in enumerate(layers):
            assert own.shape == (3, 4, asked, rows + new)
            assert cross is None if i in (0, 3) else cross.shape == (3, 4, asked, 32)
    own, cross = out.attentions[0][1]
    torch.testing.assert_close(own[:, :, -1].sum(-1), torch.ones(3, 4))
    assert (own[0, :, :-1, -1] == 0).all()  # the longest: no padding
    torch.testing.assert_close(cross[0].sum(-1), torch.ones(4, rows))
    assert (cross[2, :, :, 16:] == 0).all()  # one image of its own; the rest is the other's room


def test_attention_maps_follow_rows_that_leave():
    model = model_of(SYSTEMS["reducer.fastv"])
    model.set_attn_implementation("eager")
    batch = inputs(model, [sample(model)], upto="prompt")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True, output_hidden_states=True)
    rows = batch["input_ids"].shape[1]
    left = maps.attentions[2][0].shape[-1]
    assert [own.shape[-1] for own, _ in maps.attentions] == [rows, rows, left, left]
    assert left < rows and len(maps.hidden_states) == 5


def test_an_image_token_that_is_no_word_of_the_model():
    """A tokenizer that was given `<image>` has one word more than the embedding."""
    from eramv_lab.model import build_model

    model = build_model(model_of(SYSTEMS["bridge.mlp"]).config.spec, image_token_id=80).eval()
    usual = build_model(model.config.spec).eval()
    batch = inputs(usual, company(usual), "left", upto="prompt")
    expected = usual.generate(**batch, **WORDS)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, 80)
    found = model.generate(**batch, **WORDS, suppress_tokens=[IMAGE, 80])
    assert torch.equal(found[:, -6:], expected[:, -6:])
