"""Reading samples out of tar shards: ours, the plainest reader by index, webdataset's stream."""

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from bench_rows import Rows, Size, race, versus
from PIL import Image

from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Asked, Manifest, Packed, ShardInfo, write_shard


def reading(size: Size) -> Rows:
    """JPEG samples of 96 pixels, in a random order where it is by index."""
    with tempfile.TemporaryDirectory() as name:
        folder, order = Path(name), torch.randperm(size.samples).tolist()
        shards = [write_jpegs(folder, shard, size.samples // 2) for shard in range(2)]
        Manifest(config={}, splits={"train": shards}).save(folder)
        ours, tars = ShardDataset(folder, "train"), sorted(map(str, folder.glob("*.tar")))
        plain = PlainReader(tars)
        stream = webdataset.WebDataset(tars, shardshuffle=False).map(decode_sample)
        ways = (
            lambda: [ours[i] and None for i in order],
            lambda: [plain[i] and None for i in order],
            lambda: [None for _ in stream],
        )
        seconds, indexed, streamed = race(size, *ways)
        opened = race(size, lambda: ShardDataset(folder, "train"), lambda: PlainReader(tars))
    yield versus("reading samples: ours / plain by index", seconds, indexed, most=1.05)
    yield versus("reading samples: ours / webdataset's stream", seconds, streamed, most=1.05)
    yield versus("opening shards: ours / plain by index", *opened, most=1.05)
    yield versus("samples a second, of 4,000", size.samples / seconds, 4000, least=1)


def write_jpegs(folder: Path, shard: int, count: int) -> ShardInfo:
    """A shard of smooth noise, so that the files are as large as photographs of that size are."""
    rng = np.random.default_rng(shard)

    def packed() -> Iterator[Packed]:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((96, 96), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            key = f"train-{shard}{number:06d}"
            asked = [Asked(f"{key}-{n}", "what is left of it", "a star", "what") for n in range(3)]
            yield Packed(key, asked, ("jpg", file.getvalue()))

    return write_shard(folder / f"train-{shard:06d}.tar", packed())


def decode_sample(sample: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
    """What the other readers do with a sample's bytes."""
    image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
    return np.asarray(image), json.loads(sample["json"])


class PlainReader:
    """The plainest reader by index: headers once by tarfile, then pread, Pillow and json."""

    def __init__(self, tars: list[str]) -> None:
        found: dict[str, dict[str, tuple[int, int, int]]] = {}
        self.files = [os.open(tar, os.O_RDONLY) for tar in tars]
        for file, path in zip(self.files, tars, strict=True):
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    key, _, ending = member.name.partition(".")
                    place = (file, member.size, member.offset_data)
                    found.setdefault(key, {})[ending] = place
        self.places = list(found.values())

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        places = self.places[index].items()
        return decode_sample({ending: os.pread(*place) for ending, place in places})

    def __del__(self) -> None:
        for file in self.files:
            os.close(file)
