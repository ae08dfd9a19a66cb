"""`EramvImageProcessor`: pixels of a standalone folder, by torch and numpy, pillow if there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin
from transformers.processing_utils import ImagesKwargs


class EramvImageProcessor(ImageProcessingMixin):
    """What LLaVA's, CLIP's, SigLIP's and DINOv2's image processors do, by the same settings.

    Images are pillow's, arrays or tensors: [H,W], [H,W,C] or [C,H,W], uint8 (or floats in [0,1]).
    Where pillow is there it resizes, so that the numbers are transformers' own; else torch does,
    a step of 1/255 off at most where an image is not of the tower's size already.

    Args:
        kwargs: as transformers saves them: `do_pad` (to a square of the mean colour), `do_resize`
            with `size` (`shortest_edge`, or `height` and `width`) and `resample`,
            `do_center_crop` with `crop_size`, `do_rescale`, `do_normalize`.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = ImagesKwargs
    size: dict[str, int]
    crop_size: dict[str, int]

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)

    def __call__(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """`pixel_values` [N,3,H,W] of one image or a list of them."""
        if not isinstance(images, list | tuple):
            images = [images]
        images = [self.fetch_images(i) if isinstance(i, str) else i for i in images]
        pixels = torch.stack([self._one(image) for image in images])
        data = {"pixel_values": pixels.numpy()}
        return BatchFeature(data=data, tensor_type=return_tensors or "np")

    def _told(self, name: str, otherwise: Any = None) -> Any:
        return getattr(self, name, otherwise)

    def _one(self, image: Any) -> torch.Tensor:
        pixels_HWC = as_rgb(image)
        mean, std = self._told("image_mean"), self._told("image_std")
        if self._told("do_pad"):
            pixels_HWC = _squared(pixels_HWC, [int(255 * m) for m in mean])
        if self._told("do_resize", True):
            resample = int(self._told("resample", 3))
            pixels_HWC = _resized(pixels_HWC, _target(pixels_HWC, self.size), resample)
        if self._told("do_center_crop"):
            pixels_HWC = _cut(pixels_HWC, self.crop_size["height"], self.crop_size["width"])
        x_HWC = pixels_HWC.astype(np.float32)
        if self._told("do_rescale", True):
            x_HWC = (pixels_HWC * self._told("rescale_factor", 1 / 255)).astype(np.float32)
        if self._told("do_normalize", True):
            x_HWC = (x_HWC - np.float32(mean)) / np.float32(std)
        return torch.from_numpy(np.ascontiguousarray(x_HWC.transpose(2, 0, 1)))


def as_rgb(image: Any) -> np.ndarray:
    """uint8 [H,W,3] of an image. Raises ValueError for what is none."""
    if hasattr(image, "convert"):  # pillow's
        image = image.convert("RGB")
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    try:
        pixels = np.asarray(image)
    except (TypeError, ValueError):
        pixels = np.empty(0, dtype=object)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        raise ValueError(
            "an image is an array [H,W,3], a tensor [3,H,W] or pillow's, "
            f"found {type(image).__name__}"
        )
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]
    if pixels.dtype != np.uint8:
        scale = 255 if pixels.dtype.kind == "f" and pixels.max() <= 1 else 1
        pixels = np.clip(np.rint(pixels * scale), 0, 255).astype(np.uint8)
    return pixels


def _squared(pixels_HWC: np.ndarray, colour: list[int]) -> np.ndarray:
    """In the middle of a square of one colour."""
    height, width = pixels_HWC.shape[:2]
    side = max(height, width)
    if height == width:
        return pixels_HWC
    square = np.empty((side, side, 3), np.uint8)
    square[:] = np.array(colour, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels_HWC
    return square


def _target(pixels_HWC: np.ndarray, size: Any) -> tuple[int, int]:
    """(height, width) that `size` asks for; the longer side follows the shortest edge."""
    height, width = pixels_HWC.shape[:2]
    if "shortest_edge" not in size:
        return size["height"], size["width"]
    edge = size["shortest_edge"]
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge


def _resized(pixels_HWC: np.ndarray, target: tuple[int, int], resample: int) -> np.ndarray:
    if pixels_HWC.shape[:2] == target:
        return pixels_HWC
    try:
        from PIL import Image
    except ImportError:
        mode = {2: "bilinear", 3: "bicubic"}.get(resample)
        if mode is None:
            raise ValueError(f"resample {resample} needs pillow: pip install pillow") from None
        x_1CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)[None]
        x_1CHW = functional.interpolate(x_1CHW, target, mode=mode, antialias=True)
        return x_1CHW[0].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels_HWC).resize((target[1], target[0]), resample=resample)
    return np.asarray(image)


def _cut(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle; black around an image that is smaller."""
    rows, columns = pixels_HWC.shape[:2]
    if rows < height or columns < width:
        room = np.zeros((max(rows, height), max(columns, width), 3), np.uint8)
        top = -(-(room.shape[0] - rows) // 2)
        left = -(-(room.shape[1] - columns) // 2)
        room[top : top + rows, left : left + columns] = pixels_HWC
        pixels_HWC, (rows, columns) = room, room.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    return pixels_HWC[top : top + height, left : left + width]
