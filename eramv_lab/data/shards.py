"""WebDataset tar shards with a manifest: the same samples give the same bytes.

A shard holds `<key>.json` for each sample and, unless it is text alone, its image (`<key>.png`,
`.jpg` or `.webp`); `manifest.json` beside the shards holds counts, question types, hashes, what was
left out, and the config that they were made from.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.base import sha256_of

FORMAT = 2
MANIFEST = "manifest.json"
IMAGES = ("png", "jpg", "webp")
"""Endings of the members that are images."""


class Asked(NamedTuple):
    """One question of one image, as the shards keep it."""

    key: str
    """Unique in the data set: the image's key and the question's number."""
    question: str
    answer: str
    type: str
    follows: bool = False
    """Whether it goes on from the question before it: a later turn of the same conversation."""
    references: tuple[str, ...] = ()
    """Of a caption: further ones that would be as right."""


class Packed(NamedTuple):
    """A sample as it goes into a shard."""

    key: str
    asked: Sequence[Asked]
    image: tuple[str, bytes] | None
    """Ending (one of `IMAGES`) and bytes; none for text alone."""
    objects: Sequence[Mapping[str, Any]] | None = None
    """What was drawn, as the world tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One tar file: what it is called, what it holds, and the hash of its bytes."""

    name: str
    samples: int
    bytes: int
    sha256: str
    types: dict[str, int] = field(default_factory=dict[str, int])
    """Questions by type."""
    images: int | None = None
    """Samples with an image; none: all of them."""


SHARDS = TypeAdapter(list[ShardInfo])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a folder of shards holds: `splits` maps a split to its shards in order."""

    config: dict[str, Any]
    splits: dict[str, list[ShardInfo]]
    made_by: str = ""
    """Hash of the program that wrote it, so that a changed one draws again."""
    skipped: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """Samples that were left out: `id`, `file` and `reason` of each."""
    format: int = FORMAT

    def hash(self, split: str) -> str:
        """Hash of all bytes of a split: the identity of its data (hex, 64 digits)."""
        return hashlib.sha256("".join(s.sha256 for s in self.splits[split]).encode()).hexdigest()

    def counts(self, split: str) -> dict[str, Any]:
        """Samples, those with an image, questions and questions by type of a split."""
        shards = self.splits[split]
        types = sum((Counter(s.types) for s in shards), Counter[str]())
        return {
            "samples": sum(s.samples for s in shards),
            "images": sum(s.samples if s.images is None else s.images for s in shards),
            "questions": types.total(),
            "types": dict(sorted(types.items())),
        }

    def save(self, folder: Path) -> None:
        """Write `manifest.json`, counts included."""
        plain = {
            "format": self.format,
            "made_by": self.made_by,
            "config": self.config,
            "splits": {
                split: {**self.counts(split), "shards": [asdict(s) for s in shards]}
                for split, shards in self.splits.items()
            },
            "skipped": self.skipped,
        }
        (folder / MANIFEST).write_text(json.dumps(plain, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest of a folder. Raises UserError where it is missing or not one."""
        path = folder / MANIFEST
        try:
            plain = json.loads(path.read_text())
            if plain["format"] != FORMAT:
                raise damaged(path, f"format {plain['format']}, this version reads {FORMAT}")
            splits = {
                split: SHARDS.validate_json(json.dumps(entry["shards"]), strict=True)
                for split, entry in plain["splits"].items()
            }
            return cls(
                config=plain["config"],
                splits=splits,
                made_by=plain["made_by"],
                skipped=plain.get("skipped", []),
            )
        except FileNotFoundError:
            raise damaged(path, "no manifest here") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise damaged(
                path, f"not a manifest of shards ({type(error).__name__}: {why})"
            ) from None

    def verify(self, folder: Path, *, hashes: bool = True) -> None:
        """Raise UserError, naming every shard that is missing or not what was written.

        Sizes are always compared; `hashes` reads every byte (about one second per gigabyte).
        """
        found: list[UserError] = []
        for shard in (s for shards in self.splits.values() for s in shards):
            path = folder / shard.name
            if Path(shard.name).name != shard.name:
                found.append(damaged(path, "a shard lies beside its manifest"))
            elif not path.is_file():
                found.append(damaged(path, "the shard is missing"))
            elif (size := path.stat().st_size) != shard.bytes:
                found.append(damaged(path, f"{size} bytes, the manifest says {shard.bytes}"))
            elif hashes and sha256_of(path) != shard.sha256:
                found.append(damaged(path, "the hash is not the manifest's"))
        if found:
            raise UserError([p for error in found for p in error.problems])


class BrokenSample(LabError):
    """One sample that cannot be used: its key and why. Whoever reads many goes on without it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.reason)


def damaged(path: Path, message: str) -> UserError:
    """The error of a file that cannot be used, saying where it is."""
    return UserError(Problem(message=message, file=str(path)))


def encode_text(
    asked: Sequence[Asked], objects: Sequence[Mapping[str, Any]] | None = None
) -> bytes:
    """The JSON member of a sample."""
    plain: dict[str, Any] = {"questions": [_plain(a) for a in asked]}
    if objects is not None:
        plain["objects"] = list(objects)
    return json.dumps(plain, separators=(",", ":")).encode()


def _plain(asked: Asked) -> dict[str, Any]:
    plain = asked._asdict()
    for name in ("follows", "references"):
        if not plain[name]:
            del plain[name]
    return plain


def write_shard(path: Path, samples: Iterable[Packed], *, name: str | None = None) -> ShardInfo:
    """Write one tar; owner, mode and time are constant, so that the same samples give its bytes.

    `name`: what the shard will be called in the end (default: as `path`).
    """
    count, images, types = 0, 0, Counter[str]()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            text = ("json", encode_text(sample.asked, sample.objects))
            for ending, content in filter(None, (sample.image, text)):
                member = tarfile.TarInfo(f"{sample.key}.{ending}")
                member.size, member.mode = len(content), 0o444
                tar.addfile(member, io.BytesIO(content))
            count += 1
            images += sample.image is not None
            types.update(a.type for a in sample.asked)
    return ShardInfo(
        name=name or path.name,
        samples=count,
        images=images,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        types=dict(sorted(types.items())),
    )
