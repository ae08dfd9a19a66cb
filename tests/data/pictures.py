"""Pictures of every kind, good and bad, as bytes made here; each good one is the same scene.

The scene: the left half red, the right half blue, 24 wide and 16 high, so that a mistake in
colours, in scale or in what is up shows.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED, BLUE = (230, 20, 20), (20, 20, 230)
HIGH, WIDE = 16, 24


def scene() -> np.ndarray:
    """uint8 [16,24,3]."""
    image_HWC = np.empty((HIGH, WIDE, 3), np.uint8)
    image_HWC[:, : WIDE // 2], image_HWC[:, WIDE // 2 :] = RED, BLUE
    return image_HWC


def saved(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file of `image` (default: the scene)."""
    content = io.BytesIO()
    (image or Image.fromarray(scene())).save(content, kind, **options)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    sum_ = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG of rows as they are, each with its filter byte in front."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_png(image_HWC: np.ndarray) -> bytes:
    """16 bits a channel: the 8 bits of `image_HWC` (RGB, or grey where [H,W]) above zeros."""
    rows = (image_HWC.astype(np.uint16) << 8).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    color = 2 if image_HWC.ndim == 3 else 0
    return raw_png(image_HWC.shape[1], image_HWC.shape[0], 16, color, lines)


def turned(orientation: int) -> Image.Image:
    """The scene as a camera held another way stores it."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    return Image.fromarray(scene()).transpose(back[orientation])


def exif(orientation: int) -> Image.Exif:
    """The note that goes with it."""
    note = Image.Exif()
    note[0x0112] = orientation
    return note


def with_alpha() -> Image.Image:
    """The scene, its upper half see-through."""
    alpha_HW = np.full((HIGH, WIDE), 255, np.uint8)
    alpha_HW[: HIGH // 2] = 0
    return Image.fromarray(np.dstack([scene(), alpha_HW]))


def see_through_palette() -> bytes:
    """A palette of two colours, blue being the transparent one."""
    image = Image.fromarray((scene()[..., 2] > 128).astype(np.uint8), "L").convert("P")
    image.putpalette([*RED, *BLUE])
    return saved(image, "PNG", transparency=1)


def moving() -> bytes:
    """A GIF whose second frame is black."""
    second = Image.new("RGB", (WIDE, HIGH))
    return saved(None, "GIF", save_all=True, append_images=[second])


SCENE = Image.fromarray(scene())
EXACT: dict[str, bytes] = {
    "plain.png": saved(),
    "palette.png": saved(SCENE.quantize(2)),
    "deep.png": deep_png(scene()),
    "turned.png": saved(turned(6), exif=exif(6)),
    "turned.tif": saved(turned(3), "TIFF", exif=exif(3)),
    "still.bmp": saved(None, "BMP"),
    "moving.gif": moving(),
    "lossless.webp": saved(None, "WEBP", lossless=True),
    "plain.tif": saved(None, "TIFF"),
}
"""The scene, pixel by pixel."""
CLOSE: dict[str, bytes] = {
    "plain.jpg": saved(None, "JPEG", quality=95, subsampling=0),
    "turned.jpg": saved(turned(6), "JPEG", quality=95, subsampling=0, exif=exif(6)),
    "print.jpg": saved(SCENE.convert("CMYK"), "JPEG", quality=95),
    "print.tif": saved(SCENE.convert("CMYK"), "TIFF"),
    "two.mpo": saved(None, "MPO", save_all=True, append_images=[SCENE], quality=95, subsampling=0),
    "lossy.webp": saved(None, "WEBP", quality=95),
    "named.jpg": saved(),  # a PNG that is called something else
}
"""The scene, about."""
GREY: dict[str, bytes] = {
    "grey.jpg": saved(SCENE.convert("L"), "JPEG", quality=95),
    "grey.png": saved(SCENE.convert("L")),
    "deep_grey.png": deep_png(np.asarray(SCENE.convert("L"))),
    "deep_grey.tif": saved(
        Image.fromarray(np.asarray(SCENE.convert("L")).astype(np.uint16) << 8), "TIFF"
    ),
}
"""The scene without colour."""
ODD: dict[str, bytes] = {
    "alpha.png": saved(with_alpha()),
    "alpha.webp": saved(with_alpha(), "WEBP", lossless=True),
    "see_through.png": see_through_palette(),
    "bits.png": saved(SCENE.convert("L").convert("1")),
    "thin.png": saved(Image.new("RGB", (1, 300), RED)),
    "flat.jpg": saved(Image.new("RGB", (300, 1), RED), "JPEG"),
}
"""Good, and something else than the scene."""
GOOD = EXACT | CLOSE | GREY | ODD
BAD: dict[str, tuple[bytes, str]] = {
    "bomb.png": (raw_png(60000, 60000, 8, 2, b"\0"), "too many pixels"),
    "large.png": (raw_png(10000, 9999, 1, 0, b"\0"), "too many pixels"),
    "cut.jpg": (CLOSE["plain.jpg"][:-200], "damaged image"),
    "cut.png": (saved()[:-30], "damaged image"),
    "cut.webp": (CLOSE["lossy.webp"][:-40], "damaged image"),
    "flipped.png": (saved()[:45] + b"\xff\xff" + saved()[47:], "damaged image"),
    "empty.jpg": (b"", "not an image"),
    "page.jpg": (b"<html>404 not found</html>", "not an image"),
    "runs.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "float.tif": (saved(Image.new("F", (4, 4)), "TIFF"), "unknown range"),
}
"""What is refused, and how the reason begins."""
