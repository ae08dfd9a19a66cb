"""Shards read by index: tar headers once, then `pread` of single members; nothing is unpickled."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from eramv_lab.data.shards import Asked, Manifest, damaged
from eramv_lab.errors import Problem, UserError, nearest

IMAGES = ("png", "jpg")
ENDINGS = (*IMAGES, "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One scene: `image_HWC` is uint8 RGB; `objects` is what was drawn, as the world tells it."""

    key: str
    image_HWC: np.ndarray
    questions: tuple[Asked, ...]
    objects: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Member:
    shard: int
    offset: int
    size: int


class ShardDataset(Dataset[Sample]):
    """The samples of one split of a folder of shards, by index, in the order they were written.

    Sizes of the shards are compared with the manifest (`verify=True`: their hashes too). Raises
    UserError for a split that is not there, for damage, and for a member that is not a plain
    png, jpg or json file.
    """

    def __init__(self, folder: Path | str, split: str, *, verify: bool = False) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest = Manifest.load(self.folder)
        if split not in self.manifest.splits:
            splits = tuple(self.manifest.splits)
            raise UserError(
                Problem(
                    message=f"no split {split!r} in {self.folder}",
                    allowed=splits,
                    nearest=nearest(split, splits),
                )
            )
        self.manifest.verify(self.folder, hashes=verify)
        self._paths = [self.folder / s.name for s in self.manifest.splits[split]]
        self._files: dict[int, int] = {}
        members: dict[str, dict[str, _Member]] = {}
        for number, path in enumerate(self._paths):
            _read_headers(number, path, members)
        for key, found in members.items():
            if "json" not in found or not any(e in found for e in IMAGES):
                raise damaged(self.folder, f"sample {key!r} needs an image and a json member")
        self.keys = list(members)
        self._members = list(members.values())
        if len(self.keys) != (told := self.manifest.counts(split)["samples"]):
            raise damaged(self.folder, f"{len(self.keys)} samples, the manifest says {told}")

    @property
    def hash(self) -> str:
        """Identity of the data: the hash of all bytes of the split."""
        return self.manifest.hash(self.split)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        text = self._text(index)
        return Sample(
            key=self.keys[index],
            image_HWC=self.image(index),
            questions=tuple(Asked(**q) for q in text["questions"]),
            objects=tuple(text["objects"]),
        )

    def image(self, index: int) -> np.ndarray:
        """The image alone: uint8 [H,W,3]."""
        found = self._members[index]
        ending = next(e for e in IMAGES if e in found)
        content = io.BytesIO(self._read(found[ending]))
        try:
            # only the two decoders that the endings promise, whatever the bytes say
            with Image.open(content, formats=("PNG", "JPEG")) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            path = self._paths[found[ending].shard]
            raise damaged(path, f"{self.keys[index]}.{ending} is no image: {error}") from None

    def questions(self, index: int) -> list[Asked]:
        """The questions alone, without decoding the image."""
        return [Asked(**q) for q in self._text(index)["questions"]]

    def _text(self, index: int) -> dict[str, Any]:
        return json.loads(self._read(self._members[index]["json"]))

    def _read(self, member: _Member) -> bytes:
        file = self._files.get(member.shard)
        if file is None:
            file = self._files[member.shard] = os.open(self._paths[member.shard], os.O_RDONLY)
        return os.pread(file, member.size, member.offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def _read_headers(shard: int, path: Path, members: dict[str, dict[str, _Member]]) -> None:
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, ending = info.name.partition(".")
                if not _allowed(info, key, ending):
                    raise damaged(path, f"member {info.name!r} refused: {_ALLOWED}")
                found = members.setdefault(key, {})
                if ending in found:
                    raise damaged(path, f"member {info.name!r} is there twice")
                found[ending] = _Member(shard, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise damaged(path, f"not a tar file: {error}") from None


_ALLOWED = f"only plain files <key>.{{{','.join(ENDINGS)}}} are read"


def _allowed(info: tarfile.TarInfo, key: str, ending: str) -> bool:
    plain = bool(key) and PurePosixPath(info.name).name == info.name and "\\" not in key
    return info.isreg() and plain and ending in ENDINGS


def all_questions(dataset: ShardDataset, indices: Sequence[int] | None = None) -> list[Asked]:
    """The questions of the samples at `indices` (default: all), one after the other."""
    chosen = range(len(dataset)) if indices is None else indices
    return [asked for index in chosen for asked in dataset.questions(index)]
