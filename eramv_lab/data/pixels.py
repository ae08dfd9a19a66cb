"""Images as a tower takes them: cropped to a square, resized, scaled; the same for every caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eramv_lab.slots.vision import tiny

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


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """uint8 RGB images to float32 `pixel_values_N3HW`: (x / 255 - mean) / std."""

    size: int
    """Side of the square that the tower takes, pixels."""
    mean: RGB = (tiny.MEAN, tiny.MEAN, tiny.MEAN)
    std: RGB = (tiny.STD, tiny.STD, tiny.STD)

    @classmethod
    def of(cls, vision: Any) -> Pixels:
        """What the tower of this vision config was trained on."""
        family = vision.hf()["model_type"] if hasattr(vision, "hf") else None
        if family is None:
            return cls(size=vision.dims().image)
        mean, std = FAMILIES[family]
        return cls(size=vision.dims().image, mean=mean, std=std)

    def __call__(self, images_HWC: Sequence[np.ndarray]) -> Tensor:
        """The images as one batch [N,3,size,size]."""
        x_NHW3 = torch.from_numpy(np.stack([self._square(image) for image in images_HWC]))
        x_NHW3 = x_NHW3.float().div_(255).sub_(torch.tensor(self.mean)).div_(torch.tensor(self.std))
        return x_NHW3.permute(0, 3, 1, 2).contiguous()

    def _square(self, image_HWC: np.ndarray) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        if (height, width) == (self.size, self.size):
            return image_HWC
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        square = Image.fromarray(image_HWC[top : top + side, left : left + side])
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.BICUBIC))
