"""Where the members of a shard lie, read from the tar's headers: plain files, nothing unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from eramv_lab.data.shards import IMAGES, damaged

BLOCK = 512
ENDINGS = frozenset((*IMAGES, "json"))
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
ALLOWED = f"only plain files <key>.{{{','.join((*IMAGES, 'json'))}}} are read"


def members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Key, ending, offset and size of every member, in order.

    Raises UserError, naming the shard and the member, for one that is anything but a plain file of
    the shard itself (a link, a device, a path, a pickle), and for a tar that is cut off or damaged.
    """
    with path.open("rb", buffering=0) as file:
        size, place, name = os.fstat(file.fileno()).st_size, 0, ""
        while True:
            header = os.pread(file.fileno(), BLOCK, place)
            if header and not header.strip(b"\0"):
                return  # the tar ends with empty blocks
            if len(header) < BLOCK:
                raise damaged(path, f"cut off: it ends without an end mark, after {name!r}")
            name, key, ending, length = _header(path, header, place)
            if place + BLOCK + length > size:
                raise damaged(path, f"cut off within member {name!r}")
            yield key, ending, place + BLOCK, length
            place += BLOCK + -(-length // BLOCK) * BLOCK


def _header(path: Path, header: bytes, place: int) -> tuple[str, str, str, int]:
    prefix, name = _text(header[345:500]), _text(header[:100])
    name = f"{prefix}/{name}" if prefix else name
    length, told = _number(header[124:136]), _number(header[148:156])
    # a header's sum is taken with its own eight bytes as spaces
    if length is None or told != sum(header) - sum(header[148:156]) + 8 * 32:
        raise damaged(path, f"no tar header at byte {place:,}")
    key, _, ending = name.partition(".")
    plain = key and ending in ENDINGS and "/" not in key and "\\" not in key
    if not plain or header[156:157] not in PLAIN:
        raise damaged(path, f"member {name!r} refused: {ALLOWED}")
    return name, key, ending, length


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def _number(field: bytes) -> int | None:
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else None
