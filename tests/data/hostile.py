"""Members and tars as bytes made here, whatever they claim, and a pickle that goes off."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 512
GOOD = {"questions": [{"key": "k", "question": "what?", "answer": "that", "type": "t"}]}


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def png() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def text(plain: object = GOOD) -> bytes:
    return json.dumps(plain).encode()


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def raw(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """The bytes of a tar, each header as it is told, whatever it claims."""
    parts = []
    for info, content in members:
        parts += [info.tobuf(kind), content, bytes(-len(content) % BLOCK)]
    return b"".join(parts) + bytes(2 * BLOCK)


def good(key: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{key}.png", png()), member(f"{key}.json", text())]
