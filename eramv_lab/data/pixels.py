"""Images as a tower takes them: made square, resized, scaled; the same for every caller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eramv_lab.data.images import MOST_PIXELS
from eramv_lab.errors import Problem, UserError
from eramv_lab.slots.hub import place_of
from eramv_lab.slots.vision import tiny

Square = Literal["pad", "crop", "processor"]
RGB = tuple[float, float, float]
FAMILIES: dict[str, tuple[RGB, RGB]] = {
    "clip_vision_model": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip_vision_model": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation of each channel, by transformers' `model_type`."""


PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a folder says how its tower sees; the second one holds an `image_processor` section."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """uint8 RGB images of any shape to float32 `pixel_values_N3HW`: (x / 255 - mean) / std."""

    size: int
    """Side of the square that the tower takes, pixels."""
    mean: RGB = (tiny.MEAN, tiny.MEAN, tiny.MEAN)
    std: RGB = (tiny.STD, tiny.STD, tiny.STD)
    square: Square = "pad"
    """`pad` with the mean colour, `crop` the middle, or the tower's own `processor`."""
    path: str | None = None
    """Of the `processor`: its folder or hub id."""
    settings: str | None = None
    """Of the `processor`: its settings as JSON, so that other settings are other pixels."""

    @classmethod
    def of(cls, vision: Any, square: Square = "pad", start: str | None = None) -> Pixels:
        """What the tower of this vision config was trained on.

        Mean and deviation are those of the tower's folder, or of the model that it starts from,
        `start`, where it has none; or of its family where nothing is said. Raises UserError for
        `processor` where the tower has none that gives images of its size.
        """
        hf, size = hasattr(vision, "hf"), vision.dims().image
        path = getattr(vision, "path", None) or (start if hf else None)
        if square == "processor" and path is None:
            raise _no_processor("the vision tower has no path")
        if not hf:
            return cls(size=size, square=square)
        place = place_of(path) if path else None
        told = _told(place) if place else None
        mean, std = FAMILIES[vision.hf()["model_type"]]
        mean, std = _three(told, "image_mean", mean), _three(told, "image_std", std)
        if square != "processor":
            return cls(size=size, mean=mean, std=std, square=square)
        if told is None:
            raise _no_processor(f"{path} has no {' or '.join(PROCESSOR_FILES)}")
        text = json.dumps(told, sort_keys=True)
        pixels = cls(size=size, mean=mean, std=std, square=square, path=place, settings=text)
        pixels([np.zeros((size + 1, size, 3), np.uint8)])  # whether it gives the tower's size
        return pixels

    def __call__(self, images_HWC: Sequence[np.ndarray]) -> Tensor:
        """The images as one batch [N,3,size,size]."""
        if self.path is not None:
            return self._processed(self.path, images_HWC)
        x_NHW3 = torch.from_numpy(np.stack([self._square(image) for image in images_HWC]))
        x_NHW3 = x_NHW3.float().div_(255).sub_(torch.tensor(self.mean)).div_(torch.tensor(self.std))
        return x_NHW3.permute(0, 3, 1, 2).contiguous()

    def _square(self, image_HWC: np.ndarray) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        if (height, width) == (self.size, self.size):
            return image_HWC
        image = self._pad(image_HWC) if self.square == "pad" else _crop(image_HWC)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def _pad(self, image_HWC: np.ndarray) -> Image.Image:
        """As LLaVA does: on a square of the mean colour, in its middle."""
        image = Image.fromarray(image_HWC)
        side = max(image.size)
        if side * side > MOST_PIXELS:  # a strip: its square may be thousands of times its size
            side = int(MOST_PIXELS**0.5)
            shrink = side / max(image.size)
            image = image.resize([max(1, round(shrink * s)) for s in image.size])  # type: ignore[arg-type]
        if image.width == image.height:
            return image
        square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self.mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def _processed(self, path: str, images_HWC: Sequence[np.ndarray]) -> Tensor:
        images = [Image.fromarray(image) for image in images_HWC]
        x_N3HW = _processor(path)(images, return_tensors="pt")["pixel_values"]
        if tuple(x_N3HW.shape) != (expected := (len(images), 3, self.size, self.size)):
            raise UserError(
                Problem(
                    message=f"the image processor of {path} gives {tuple(x_N3HW.shape)}, the "
                    f"tower takes {expected}",
                    key="data.square",
                    allowed=("pad", "crop"),
                )
            )
        return x_N3HW


def _crop(image_HWC: np.ndarray) -> Image.Image:
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return Image.fromarray(image_HWC[top : top + side, left : left + side])


def _three(told: Mapping[str, Any] | None, key: str, otherwise: RGB) -> RGB:
    values = (told or {}).get(key)
    if values is None:
        return otherwise
    if not isinstance(values, list) or len(values) != 3 or {*map(type, values)} - {int, float}:
        raise UserError(f"{key} of the tower's image processor is {values}, expected 3 numbers")
    red, green, blue = map(float, values)
    return red, green, blue


def _no_processor(why: str) -> UserError:
    message = f"'processor' is the tower's own image processor, and {why}"
    return UserError(Problem(message=message, key="data.square", allowed=("pad", "crop")))


@cache
def _told(place: str) -> Mapping[str, Any] | None:
    """What a folder or hub id says of its image processor; None where it says nothing."""
    for name in PROCESSOR_FILES:
        file = Path(place) / name if Path(place).is_dir() else _downloaded(place, name)
        if file is None or not file.is_file():
            continue
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            plain = plain.get("image_processor") if name == PROCESSOR_FILES[1] else plain
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                Problem(message=f"cannot be read as JSON: {error}", file=str(file))
            ) from None
        if isinstance(plain, dict):
            return plain
    return None


def _downloaded(place: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(place, name))
    except EntryNotFoundError:
        return None
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{place} is no folder here, and the hub gave no {name}: {first}") from None


@cache
def _processor(path: str) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"the image processor of {path} cannot be used: {first}") from None
