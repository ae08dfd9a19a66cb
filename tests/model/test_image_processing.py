"""Pixels without torchvision, and without Pillow, are those of transformers' processors."""

import sys
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pytest
import torch
from PIL import Image

from eramv_lab.data.pixels import Pixels
from eramv_lab.data.processor import image_processor


@pytest.mark.parametrize("square", ["pad", "crop"])
@pytest.mark.parametrize("size", [(32, 32), (48, 32), (33, 80), (20, 21)])
def test_pixels_are_those_of_transformers(square: Any, size: tuple[int, int]):
    from eramv_lab.model.image_processing import EramvImageProcessor

    theirs = image_processor(Pixels(size=32, square=square))
    ours = EramvImageProcessor(**theirs.to_dict())
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = theirs(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    shown = (Image.fromarray(image), image, torch.from_numpy(image).permute(2, 0, 1))
    for given in shown:
        found = ours(given, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_towers_own_processors_are_the_same(tmp_path: Path):
    from transformers import AutoImageProcessor

    from eramv_lab.model.image_processing import EramvImageProcessor

    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 57, 3), np.uint8))
    for name, make in hub.TOWERS.items():
        theirs = AutoImageProcessor.from_pretrained(make(tmp_path / name), backend="pil")
        ours = EramvImageProcessor(**theirs.to_dict())
        expected = theirs(image, return_tensors="pt")["pixel_values"]
        found = ours([image], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_without_pillow_a_resized_image_is_a_step_off_at_most(monkeypatch: pytest.MonkeyPatch):
    from eramv_lab.model.image_processing import EramvImageProcessor

    ours = EramvImageProcessor(**image_processor(Pixels(size=32)).to_dict())
    image = np.random.default_rng(3).integers(0, 256, (60, 47, 3), dtype=np.uint8)
    expected = ours(image, return_tensors="pt")["pixel_values"]
    monkeypatch.setitem(sys.modules, "PIL", None)
    found = ours(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1.01 / 255 / 0.25, rtol=0)


@pytest.mark.parametrize("what", [3, "nowhere.png", np.zeros((2, 2, 2, 2)), np.zeros((0, 3, 3))])
def test_what_is_no_image_is_refused(what: Any):
    from eramv_lab.model.image_processing import EramvImageProcessor

    ours = EramvImageProcessor(**image_processor(Pixels(size=32)).to_dict())
    with pytest.raises(Exception, match=r"an image is|nowhere\.png|image"):
        ours(what)
