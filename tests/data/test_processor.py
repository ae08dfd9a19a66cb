"""The processor of a finished model: from its folder it writes what the batches held."""

from pathlib import Path
from typing import Any

import hub
import numpy as np
import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, section_of, with_keys
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from eramv_lab.data.collate import collator_of, repeat_images
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.processor import image_processor, processor_of
from eramv_lab.data.shards import Asked
from eramv_lab.data.words import words_of
from eramv_lab.model import EramvForConditionalGeneration, build_model

TALK = [
    Asked("a-0", "what is the <image> color?", "it is </s> red.", "llava"),
    Asked("a-1", "and the dog?", "blue", "llava", follows=True),
]


ASKING = section_of(("connector", "qformer"))["connector"]
"""It reads the question: what is asked has to be found in every prompt."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    makers = {"clip": hub.make_clip, **hub.LANGUAGES}
    return {name: make(root / name) for name, make in makers.items()}


@pytest.mark.parametrize(
    ("family", "template", "order"),
    [
        ("llama", "chat", "image_first"),
        ("llama", "vicuna", "question_first"),
        ("llama", "caption", "image_first"),
        ("mistral", "chat", "question_first"),
        ("qwen2", "chat", "image_first"),
        ("qwen2", "plain", "question_first"),
        ("qwen3", "chat", "question_first"),
        ("qwen3", "vicuna", "image_first"),
    ],
)
def test_a_folder_holds_all_that_a_question_needs(
    family: str, template: str, order: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(
        with_keys(
            TINY,
            vision={"type": "hf", "path": str(folders["clip"])},
            language={"type": "hf", "path": str(folders[family])},
            prompt={"type": order, "template": template},
            connector=ASKING,
            band="none",
        )
    )
    words, pixels = words_of(spec), Pixels.of(spec.vision)
    model: Any = build_model(spec, image_token_id=words.image).eval()
    model.save_pretrained(tmp_path)
    processor_of(spec, words, pixels).save_pretrained(tmp_path)

    processor: Any = AutoProcessor.from_pretrained(tmp_path)
    again: Any = EramvForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert processor.image_token_id == again.config.image_token_id == words.image
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    collator = collator_of(spec, words)
    samples, seen = [TALK, TALK[:1]], [True, False]
    theirs = collator.prompts(samples, seen)
    theirs["pixel_values"] = pixels([image_HWC])
    first, then = TALK
    history = [(first.question, first.answer)]
    text = [
        processor.write(first.question),
        processor.write(then.question, history=history),
        processor.write(first.question, 0),
    ]
    ours = processor([image_HWC] * 2, text)
    for name in ("input_ids", "attention_mask", "question_ids", "question_mask"):
        assert torch.equal(ours[name], theirs[name]), name
    given = processor([image_HWC] * 2, text, questions=[first.question] * 3)
    if template != "caption":  # in which nothing is asked of an image
        assert torch.equal(given["question_ids"], theirs["question_ids"])
    assert ours["image_counts"] == theirs["image_counts"]
    inputs = repeat_images({k: v for k, v in theirs.items() if k != "asked"})
    torch.testing.assert_close(ours["pixel_values"], inputs["pixel_values"], atol=1e-5, rtol=0)
    said = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(again.generate(**ours, max_new_tokens=3), said)


@pytest.mark.parametrize("square", ["pad", "crop", "processor"])
@pytest.mark.parametrize("tower", hub.TOWERS)
def test_pixels_are_those_of_the_data(square: Any, tower: str, tmp_path: Path) -> None:
    folder = hub.TOWERS[tower](tmp_path / tower)
    config = spec_of(
        with_keys(TINY, vision={"type": "hf", "path": str(folder)}, anchors="all", band="none")
    ).vision
    pixels = Pixels.of(config, square)
    image_processor(pixels).save_pretrained(tmp_path / "saved")
    saved = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    draw = np.random.default_rng(0)
    # cropped by transformers behind its resizing: the same where the sides divide
    for high, wide in ((40, 64), (64, 40), (48, 48)) if square != "crop" else ((64, 64),):
        image_HWC = draw.integers(0, 256, (high, wide, 3), dtype=np.uint8)
        found = saved(Image.fromarray(image_HWC), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, pixels([image_HWC]), atol=1e-5, rtol=0)
