"""Pictures as a question names them: a path, a PIL image, an array; or the reason why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from eramv_lab.data.images import FORMATS, MOST_PIXELS, decode
from eramv_lab.errors import Problem, UserError

Picture: TypeAlias = str | Path | Image.Image | np.ndarray


def open_pictures(pictures: Picture | Sequence[Picture] | None) -> list[np.ndarray]:
    """uint8 RGB arrays [H,W,3]. Raises UserError with every one that cannot be used."""
    if pictures is None:
        return []
    several = [pictures] if isinstance(pictures, Picture) else list(pictures)
    found: list[np.ndarray] = []
    problems: list[Problem] = []
    for picture in several:
        try:
            found.append(_open(picture))
        except ValueError as error:
            file = str(picture) if isinstance(picture, str | Path) else None
            problems.append(Problem(message=str(error), file=file))
    if problems:
        raise UserError(problems)
    return found


def read_picture(file: Path) -> np.ndarray:
    """The picture in a file, upright, uint8 RGB [H,W,3]. Raises ValueError with the reason."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ValueError("there is no such picture") from None
    except OSError as error:
        raise ValueError(f"the picture cannot be read: {error.strerror}") from None
    return _no_strip(decode(content))


def faults(files: Iterable[Path]) -> dict[Path, str]:
    """Files that are no pictures, and why, as far as their first bytes tell."""
    found: dict[Path, str] = {}
    for file in dict.fromkeys(files):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of many pixels; decoding counts them
                Image.open(file, formats=FORMATS).close()
        except Exception:  # Pillow raises nearly anything; decoding says it in words
            try:
                read_picture(file)
            except ValueError as error:
                found[file] = str(error)
    return found


def _open(picture: Picture) -> np.ndarray:
    if isinstance(picture, str | Path):
        return read_picture(Path(picture).expanduser())
    if isinstance(picture, Image.Image):
        return _no_strip(np.asarray(picture.convert("RGB")))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"an array is uint8 [H,W,3], found {picture.dtype} {list(picture.shape)}")
    return _no_strip(picture)


def _no_strip(image_HWC: np.ndarray) -> np.ndarray:
    """Smaller where a square around it would fill the memory: processors pad to one."""
    height, width = image_HWC.shape[:2]
    side = int(MOST_PIXELS**0.5)
    if max(height, width) <= side:
        return image_HWC
    shrink = side / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(Image.fromarray(image_HWC).resize(size))
