"""Images of any shape as a tower takes them: LLaVA's square, the middle, the tower's own way."""

import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.siglip import SiglipImageProcessorPil

from data.pictures import GOOD
from eramv_lab.data import pixels as module
from eramv_lab.data.images import decode
from eramv_lab.data.pixels import FAMILIES, Pixels
from eramv_lab.errors import UserError
from eramv_lab.slots.vision.hf import HfVisionConfig
from eramv_lab.slots.vision.tiny import TinyVisionConfig

CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "num_attention_heads": 2}
CLIP |= {"num_hidden_layers": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
MEAN = (0.5, 0.25, 0.75)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def tower(tmp_path) -> HfVisionConfig:
    """A CLIP folder whose processor has a mean of its own."""
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(image_mean=list(MEAN), **size).save_pretrained(tmp_path)
    return HfVisionConfig(path=str(tmp_path))


def test_an_image_of_the_towers_size_passes_unchanged():
    image_HWC = noise(96, 96)
    for square in ("pad", "crop"):
        x_3HW = Pixels.of(TinyVisionConfig(), square)([image_HWC])[0]
        expected = (torch.from_numpy(image_HWC).float() / 255 - 0.5) / 0.25
        assert torch.equal(x_3HW, expected.permute(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(20, 50), (50, 20), (33, 32), (40, 40)])
def test_pad_is_llavas(height, width):
    image = Image.fromarray(noise(height, width))
    pixels = Pixels(size=32, mean=MEAN)
    # llava/mm_utils.py: expand2square with int(x * 255), then CLIP's processor
    side, color = max(image.size), tuple(int(x * 255) for x in MEAN)
    square = Image.new(image.mode, (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    theirs = CLIPImageProcessorPil(
        image_mean=list(pixels.mean),
        image_std=list(pixels.std),
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
    )(square, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels([np.asarray(image)]), theirs, rtol=0, atol=1e-5)


def test_pad_shows_all_and_crop_the_middle():
    image_HWC = np.zeros((10, 90, 3), np.uint8)
    image_HWC[:, :30], image_HWC[:, 60:] = 255, 255
    pad, crop = (Pixels(size=30, square=square) for square in ("pad", "crop"))
    padded_HW, cropped_HW = (p([image_HWC])[0, 0] * 0.25 + 0.5 for p in (pad, crop))
    assert cropped_HW.max() < 0.01
    assert padded_HW.max() > 0.99 and padded_HW[15].min() < 0.1
    assert padded_HW[0, 0].item() == pytest.approx(127 / 255)


@pytest.mark.parametrize(("height", "width"), [(1, 60000), (60000, 1)])
def test_a_strip_does_not_ask_for_the_square_of_its_length(height, width, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 10**6)
    made: list[int] = []
    new = Image.new

    def counted(mode, size, *color):
        made.append(size[0] * size[1])
        return new(mode, size, *color)

    monkeypatch.setattr(Image, "new", counted)
    x_N3HW = Pixels(size=32)([np.full((height, width, 3), 255, np.uint8)])
    assert x_N3HW.shape == (1, 3, 32, 32) and max(made) == 10**6
    # a thousandth of white in the middle, grey elsewhere
    assert x_N3HW[0, 0, 0, 0] == x_N3HW.min() < x_N3HW.max()
    cropped = Pixels(size=32, square="crop")([np.full((height, width, 3), 255, np.uint8)])
    assert (cropped == 2).all()


def test_every_kind_of_picture_becomes_one_batch():
    images = [decode(content) for content in GOOD.values()]
    for square in ("pad", "crop"):
        x_N3HW = Pixels(size=32, square=square)(images)
        assert x_N3HW.shape == (len(images), 3, 32, 32) and x_N3HW.isfinite().all()


def test_the_towers_folder_says_its_mean_and_the_family_where_it_does_not(tower, tmp_path):
    _, clip_std = FAMILIES["clip_vision_model"]
    assert (Pixels.of(tower).mean, Pixels.of(tower).std) == (MEAN, clip_std)
    family = Pixels.of(HfVisionConfig(config=CLIP))
    assert (family.mean, family.std) == FAMILIES["clip_vision_model"]
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "config.json").write_text(json.dumps(CLIP))
    plain = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (nested / "processor_config.json").write_text(json.dumps({"image_processor": plain}))
    assert Pixels.of(HfVisionConfig(path=str(nested))).mean == MEAN


def test_a_processor_is_the_towers_own(tower):
    pixels = Pixels.of(tower, "processor")
    images = [noise(20, 50), noise(70, 40)]
    theirs = CLIPImageProcessorPil.from_pretrained(tower.path)
    expected = theirs([Image.fromarray(i) for i in images], return_tensors="pt")["pixel_values"]
    again = pickle.loads(pickle.dumps(pixels))
    assert torch.equal(pixels(images), expected) and torch.equal(again(images), expected)


def test_whatever_changes_the_pixels_changes_their_identity(tower):
    json.dumps(asdict(Pixels.of(tower, "processor")))
    kinds = [Pixels.of(tower, square) for square in ("pad", "crop", "processor")]
    kinds.append(replace(kinds[2], settings="{}"))
    assert len({json.dumps(asdict(kind)) for kind in kinds}) == 4


def test_a_processor_of_another_size_is_refused(tower, tmp_path):
    SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text(json.dumps(CLIP))
    with pytest.raises(UserError, match=r"data\.square: .* gives \(1, 3, 24, 24\)") as error:
        Pixels.of(HfVisionConfig(path=str(tmp_path / "b")), "processor")
    assert "allowed: pad, crop" in str(error.value)


def test_a_processor_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    for vision in (TinyVisionConfig(), HfVisionConfig(config=CLIP)):
        with pytest.raises(UserError, match="the vision tower has no path"):
            Pixels.of(vision, "processor")
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        Pixels.of(HfVisionConfig(path=str(tmp_path)), "processor")


@pytest.mark.parametrize("text", ["[", "3", '{"image_mean": [1, "x", 2]}', '{"image_mean": 7}'])
def test_processor_settings_that_make_no_sense_are_one_message(tmp_path, text):
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    (tmp_path / "preprocessor_config.json").write_text(text)
    if text == "3":  # no settings at all: as where there is no file
        assert Pixels.of(HfVisionConfig(path=str(tmp_path))).mean == FAMILIES[CLIP["model_type"]][0]
        return
    with pytest.raises(UserError, match=r"JSON|image_mean"):
        Pixels.of(HfVisionConfig(path=str(tmp_path)))


def test_settings_that_transformers_refuses_are_one_message(tower, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "os.system"}')
    module._told.cache_clear()
    module._processor.cache_clear()
    with pytest.raises(UserError, match="cannot be used"):
        Pixels.of(tower, "processor")
