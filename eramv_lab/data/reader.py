"""Shards read by index: tar headers once, then `pread` of single members; nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from eramv_lab.data import tar
from eramv_lab.data.images import decode
from eramv_lab.data.shards import IMAGES, Asked, BrokenSample, Manifest, damaged
from eramv_lab.errors import Problem, UserError, nearest

FILES = 64
"""Most shards that one reader holds open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One scene: `image_HWC` is uint8 RGB; `objects` is what was drawn, as the world tells it."""

    key: str
    image_HWC: np.ndarray | None
    """None where the sample is text alone."""
    questions: tuple[Asked, ...]
    objects: tuple[dict[str, Any], ...]


class ShardDataset(Dataset[Sample]):
    """The samples of one split of a folder of shards, by index, in the order they were written.

    Sizes of the shards are compared with the manifest (`verify=True`: their hashes too). Raises
    UserError for a split that is not there, for a shard that is damaged, and for a member that is
    not a plain image or json file. What is wrong within one sample is a BrokenSample when that
    sample is read.
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
        self.keys, self._places = _index(self._paths)
        if len(self.keys) != (told := self.manifest.counts(split)["samples"]):
            raise damaged(self.folder, f"{len(self.keys)} samples, the manifest says {told}")

    @property
    def hash(self) -> str:
        """Identity of the data: the hash of all bytes of the split."""
        return self.manifest.hash(self.split)

    @property
    def text_bytes(self) -> np.ndarray:
        """Size of the JSON member of each sample [N]: a stand-in for how long its text is."""
        return self._places[:, _TEXT + 1]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """The whole sample. Raises BrokenSample where any of it is damaged."""
        asked, objects = self._text(index)
        image_HWC = self.image(index) if self.has_image(index) else None
        return Sample(
            key=self.keys[index],
            image_HWC=image_HWC,
            questions=tuple(asked),
            objects=tuple(objects),
        )

    def has_image(self, index: int) -> bool:
        """Whether the sample has an image; otherwise it is text alone."""
        return bool(self._places[index, _IMAGE + 1] >= 0)

    def image(self, index: int) -> np.ndarray:
        """The image alone: uint8 [H,W,3]. Raises BrokenSample where it cannot be decoded."""
        try:
            return decode(self._read(index, _IMAGE))
        except ValueError as error:
            raise BrokenSample(self.keys[index], str(error)) from None

    def questions(self, index: int) -> list[Asked]:
        """The questions alone, without decoding the image. Raises BrokenSample for a bad text."""
        return self._text(index)[0]

    def _text(self, index: int) -> tuple[list[Asked], list[dict[str, Any]]]:
        content = self._read(index, _TEXT)
        try:
            return _parse(json.loads(content.decode()))
        except (ValueError, RecursionError) as error:
            raise BrokenSample(self.keys[index], f"bad text: {error}") from None

    def _read(self, index: int, part: int) -> bytes:
        row = self._places[index].tolist()
        shard, offset, size = row[_SHARD], row[part], row[part + 1]
        if size < 0:
            raise BrokenSample(self.keys[index], "no image: the sample is text alone")
        content = os.pread(self._open(shard), size, offset)
        if len(content) != size:
            name = self._paths[shard].name
            raise BrokenSample(
                self.keys[index], f"cut off: {name} has become shorter since it was opened"
            )
        return content

    def _open(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= FILES:
                os.close(self._files.pop(next(iter(self._files))))
            file = self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


_SHARD, _TEXT, _IMAGE = 0, 1, 3
"""Columns of an index: the shard; offset and size of the text; those of the image (-1: none)."""


def _index(paths: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """Keys of all samples in order, and where their members lie: int64 [N,5]."""
    rows: dict[str, list[int]] = {}
    for shard, path in enumerate(paths):
        for key, ending, offset, size in tar.members(path):
            row = rows.setdefault(key, [shard, -1, -1, -1, -1])
            part = _IMAGE if ending in IMAGES else _TEXT
            if row[part] >= 0 or row[_SHARD] != shard:
                raise damaged(path, f"member {f'{key}.{ending}'!r}: there is one such already")
            row[part : part + 2] = offset, size
    for key, row in rows.items():
        if row[_TEXT] < 0:
            raise damaged(paths[row[_SHARD]], f"sample {key!r} has no json member")
    return list(rows), np.array(list(rows.values()), dtype=np.int64).reshape(-1, 5)


def _parse(plain: Any) -> tuple[list[Asked], list[dict[str, Any]]]:
    """Questions and objects of a sample's JSON. Raises ValueError where it has another form."""
    if not isinstance(plain, dict):
        raise ValueError(f"a JSON {type(plain).__name__}, expected an object")
    questions, objects = plain.get("questions"), plain.get("objects", [])
    if not isinstance(questions, list) or not questions:
        raise ValueError("expected a list of questions, one at least")
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise ValueError("expected objects to be a list of JSON objects")
    return [_asked(question) for question in questions], objects


def _is_text(value: Any) -> bool:
    return value.__class__ is str


def _asked(plain: Any) -> Asked:
    try:
        one = Asked(**plain)
        if one.references.__class__ is list:
            one = one._replace(references=tuple(one.references))
    except TypeError:
        fields = ", ".join(Asked._fields)
        raise ValueError(f"a question needs {fields}, and nothing else") from None
    # every sample of every epoch passes here: no loop over the fields
    texts = one.key.__class__ is one.question.__class__ is one.answer.__class__ is str
    texts = texts and one.type.__class__ is str and one.references.__class__ is tuple
    if not (texts and one.follows.__class__ is bool and all(map(_is_text, one.references))):
        raise ValueError(f"a question with a field of another kind: {one._asdict()}"[:200])
    return one
