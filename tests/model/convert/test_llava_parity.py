"""A converted LLaVA says what transformers' says, on its own processor's inputs, and goes back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor
from eramv_lab.model.convert import convert_llava, to_llava
from tests.hub import make_llava

SIGLIP = "siglip_vision_model"
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"family": "qwen2", "tower": SIGLIP, "vision_feature_layer": -1},
    "qwen2_tied": {"family": "qwen2", "words": {"tie_word_embeddings": True}},
    "mistral": {"family": "mistral", "words": {"sliding_window": None}},
    "qwen3": {"family": "qwen3", "tower": SIGLIP},
    "full": {"vision_feature_select_strategy": "full", "vision_feature_layer": 1},
}
"""LLaVA-1.5's, LLaVA-Interleave's, and what else a config may say."""
ASKED = ("USER: <image>\nwhat is it? ASSISTANT:", "USER: <image>\nred or blue, or both? ASSISTANT:")
TEXTS = (*ASKED, "USER: two cats ASSISTANT:")

SEEN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
SAID = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
MORE = {"role": "user", "content": [{"type": "text", "text": "and that?"}]}
CHATS = ([SEEN], [MORE], [SEEN, SAID, MORE])


def picture(seed: int) -> Image.Image:
    shape = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return Image.fromarray(shape)


SLOW = ("mistral", "qwen3", "full")


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(a checkpoint, the folder converted from it)."""
    folder = tmp_path_factory.mktemp(request.param)
    source = make_llava(folder / "theirs", **KINDS[request.param])
    assert len(list(source.glob("*.safetensors"))) > 2
    assert convert_llava(source, folder / "ours", shard="50KB") == []
    return source, folder / "ours"


def loaded(pair: tuple[Path, Path], attention: str = "sdpa") -> tuple[Any, Any]:
    theirs = LlavaForConditionalGeneration.from_pretrained(pair[0], attn_implementation=attention)
    ours = EramvForConditionalGeneration.from_pretrained(pair[1], attn_implementation=attention)
    return theirs.eval(), ours.eval()


def batch(source: Path, side: str = "left") -> Any:
    """Its own processor's inputs: texts of different lengths, one without an image."""
    processor: Any = LlavaProcessor.from_pretrained(source)
    return processor(
        images=[picture(0), picture(1)],
        text=list(TEXTS),
        padding=True,
        padding_side=side,
        return_tensors="pt",
    )


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_answers_are_those_of_llava(pair: tuple[Path, Path], attention: str):
    theirs, ours = loaded(pair, attention)
    for side in ("left", "right"):
        inputs = batch(pair[0], side)
        real = inputs["attention_mask"].bool()
        assert not real.all()
        told = real & real.roll(1, dims=1)  # not the first word, which only padding would predict
        labels = inputs["input_ids"].masked_fill(~told, -100)
        with torch.no_grad():
            one, two = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
        close(one.logits[real], two.logits[real])
        close(one.loss, two.loss)
    inputs = batch(pair[0])
    never: Any = {"suppress_tokens": [theirs.config.image_token_index], "max_new_tokens": 8}
    for more in ({"use_cache": True}, {"use_cache": False}, {"num_beams": 2}):
        found = ours.generate(**inputs, **never, do_sample=False, **more)
        assert torch.equal(found, theirs.generate(**inputs, **never, do_sample=False, **more))
    torch.manual_seed(3)
    drawn = ours.generate(**inputs, **never, do_sample=True)
    torch.manual_seed(3)
    assert torch.equal(drawn, theirs.generate(**inputs, **never, do_sample=True))


def test_every_sample_alone_and_with_two_images(pair: tuple[Path, Path]):
    theirs, ours = loaded(pair)
    processor: Any = LlavaProcessor.from_pretrained(pair[0])
    for text in (TEXTS[0], TEXTS[2], "<image> and <image>\nwhat is it?"):
        images = [picture(n) for n in range(text.count("<image>"))] or None
        inputs = processor(images=images, text=text, return_tensors="pt")
        with torch.no_grad():
            close(ours(**inputs).logits, theirs(**inputs).logits)


def test_the_processor_is_the_checkpoints(pair: tuple[Path, Path]):
    theirs: Any = LlavaProcessor.from_pretrained(pair[0])
    ours: Any = AutoProcessor.from_pretrained(pair[1])
    assert isinstance(ours, EramvProcessor) and ours.chat_template == theirs.chat_template
    one = ours(images=[picture(0), picture(1)], text=list(TEXTS))
    two = batch(pair[0])
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(one[name], two[name]), name
    for told in CHATS:
        asked = theirs.apply_chat_template(told, add_generation_prompt=True)
        assert ours.apply_chat_template(told, add_generation_prompt=True) == asked
    assert ours.write("what is it?") == theirs.apply_chat_template(
        CHATS[0], add_generation_prompt=True
    )


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def test_back_again_every_tensor_is_the_same(pair: tuple[Path, Path], tmp_path: Path):
    to_llava(pair[1], tmp_path / "back", shard="60KB")
    before, after = tensors(pair[0]), tensors(tmp_path / "back")
    useless = {name for name in before if name.startswith("vision_tower.head.")}
    assert after.keys() == before.keys() - useless
    assert all(torch.equal(after[name], before[name]) for name in after)
    theirs, _ = loaded(pair)
    back = LlavaForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "back")
    assert processor.__class__.__name__ == "LlavaProcessor"
    own: Any = LlavaProcessor.from_pretrained(pair[0])
    for told in CHATS:
        asked = own.apply_chat_template(told, add_generation_prompt=True)
        assert processor.apply_chat_template(told, add_generation_prompt=True) == asked
    inputs = processor(images=[picture(0), picture(1)], text=list(TEXTS), padding=True,
                       padding_side="left", return_tensors="pt")  # fmt: skip
    expected = batch(pair[0])
    with torch.no_grad():
        assert torch.equal(back(**inputs).logits, theirs(**expected).logits)
    assert back.generation_config.to_diff_dict() == theirs.generation_config.to_diff_dict()
    for key in ("image_token_index", "vision_feature_select_strategy", "dtype"):
        assert getattr(back.config, key) == getattr(theirs.config, key)


def test_a_model_in_memory_gives_copies(pair: tuple[Path, Path], tmp_path: Path):
    theirs, ours = loaded(pair)
    made = EramvForConditionalGeneration.from_llava(theirs).eval()
    inputs = batch(pair[0])
    with torch.no_grad():
        assert torch.equal(made(**inputs).logits, ours(**inputs).logits)
        before = theirs(**inputs).logits
        for parameter in made.parameters():
            parameter.zero_()
        assert torch.equal(theirs(**inputs).logits, before)
    to_llava(ours, tmp_path / "back", processor=EramvProcessor.from_pretrained(pair[1]))
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "back"), LlavaProcessor)
