"""Bytes of a picture to RGB pixels, whatever kind of picture it is; or the reason why not."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

MOST_PIXELS = 2**30 // 12
"""Most pixels of one picture (a quarter of a GiB as RGB); its header tells, nothing is decoded."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened, by the first bytes of a file, a JPEG of several frames among them; none of these
runs a program."""
AS_THEY_ARE = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats whose bytes go into a shard unchanged, and the ending of the member."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""


def decode(content: bytes) -> np.ndarray:
    """The first frame as uint8 RGB [H,W,3], upright as its EXIF says.

    What is transparent shows white. 16 bits a channel become 8 by dropping the low ones.
    Raises ValueError with a short reason: no picture of `FORMATS`, too many pixels, damaged.
    """
    return _decode(content)[0]


def for_shard(content: bytes) -> tuple[str, bytes]:
    """Ending and bytes of a picture as a shard keeps it: its own bytes, or a PNG of the pixels.

    The whole picture is decoded first. Raises ValueError as `decode` does.
    """
    image_HWC, kind = _decode(content)
    if ending := AS_THEY_ARE.get(kind):
        return ending, content
    return "png", png(image_HWC)


def png(image_HWC: np.ndarray) -> bytes:
    """The bytes of a PNG of uint8 RGB pixels."""
    content = io.BytesIO()
    Image.fromarray(image_HWC).save(content, "PNG", compress_level=1)
    return content.getvalue()


class _Refused(ValueError):
    """A picture that is whole, and not one that can be used."""


def _decode(content: bytes) -> tuple[np.ndarray, str]:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _Refused(f"too many pixels: {width} x {height}, at most {MOST_PIXELS:,}")
        return _upright_rgb(image), image.format or ""
    except Image.DecompressionBombError:
        raise _Refused(f"too many pixels: more than {MOST_PIXELS:,}") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise _Refused(f"not an image: {_begins(content)}, none of {kinds}") from None
    except (MemoryError, _Refused):
        raise
    except Exception as error:  # Pillow raises nearly anything for bytes that are damaged
        raise _Refused(f"damaged image: {error or type(error).__name__}") from None


_TOLD = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp", "transparency"}
"""Where a picture says that it must be turned, or that a colour is transparent."""


def _upright_rgb(image: ImageFile.ImageFile) -> np.ndarray:
    image.load()  # a PNG may tell its orientation after the pixels
    if not all(image.size):
        raise _Refused("no pixels: a side is 0")
    if image.mode == "RGB" and image.format in AS_THEY_ARE and not _TOLD & image.info.keys():
        return _array(image)  # an ordinary photograph
    turn = TURNS.get(_orientation(image))
    return as_rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that is damaged turns nothing; the pixels are still good
        return 1


def as_rgb(image: Image.Image) -> np.ndarray:
    """A picture that is open as uint8 RGB [H,W,3]; what is transparent shows white.

    Raises ValueError for 32 bits a pixel.
    """
    if image.mode.startswith("I;16"):
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise _Refused("unknown range: 32 bits a pixel do not say what is white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return _array(image.convert("RGB"))


def _array(image: Image.Image) -> np.ndarray:
    # np.asarray gives the same and asks the image more questions, which shows on small ones
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _begins(content: bytes) -> str:
    return f"begins with {content[:8]!r}" if content else "an empty file"
