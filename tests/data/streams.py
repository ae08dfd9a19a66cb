"""Shards as bytes made here, good and hostile, and a stream over them."""

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from eramv_lab.data.shards import BrokenSample
from eramv_lab.data.sources import StreamConfig
from eramv_lab.data.stream import StreamDataset, Streamed

LINK = object()


def jpeg(value: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(content, "JPEG")
    return content.getvalue()


def own(key: str, **changed: object) -> bytes:
    asked = {"key": f"{key}-0", "question": "what?", "answer": "that", "type": "t", **changed}
    return json.dumps({"questions": [asked]}).encode()


def llava(*values: str, **more: object) -> bytes:
    turns = [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]
    return json.dumps({"id": "x", "conversations": turns, **more}).encode()


def tar(members: list[tuple[str, bytes | object]], kind: bytes = tarfile.SYMTYPE) -> bytes:
    """A tar of (name, content); content LINK makes a link to /etc/hostname."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = kind, "/etc/hostname"
                made.addfile(info)
    return content.getvalue()


def shard(*keys: str) -> bytes:
    return tar([(f"{k}.{e}", c) for k in keys for e, c in (("jpg", jpeg()), ("json", own(k)))])


def stream(addresses: str | Path, **given: object) -> StreamDataset:
    buffer = given.pop("shuffle", 4)
    config = StreamConfig(train=str(addresses), test=str(addresses), shuffle=buffer)
    return StreamDataset(config, "train", waits=(), **{"seed": 3, **given})


def take(dataset: StreamDataset, count: int) -> list[Streamed | BrokenSample]:
    return list(itertools.islice(dataset, count))


def keys(items: list) -> list[str]:
    return [item.key for item in items]


EVERY = {f"s{number}-{i}" for number in range(8) for i in range(5)}
