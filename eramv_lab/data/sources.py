"""Data that is not drawn here: a folder of imported shards, or a stream of remote ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eramv_lab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """A folder that `data import` has written, read by index: exact shuffle, exact resume."""

    path: str
    """The folder with manifest.json and its tar files."""

    def check(self) -> Iterator[str]:
        """Texts of what is wrong: no manifest, a split that is missing or empty."""
        try:
            splits = self._splits()
        except UserError as error:
            yield from (p.render() for p in error.problems)
            return
        for split in ("train", "test"):
            if not splits.get(split, {}).get("samples"):
                yield f"{self.path} has no samples in its split {split!r}"

    def sizes(self) -> dict[str, int]:
        """Samples of each split, and questions of the sample that has most."""
        splits = self._splits()
        sizes = {split: int(entry["samples"]) for split, entry in splits.items()}
        return sizes

    def types(self) -> list[str]:
        """Question types of the splits."""
        return sorted({kind for entry in self._splits().values() for kind in entry["types"]})

    def identity(self) -> Any:
        """The hashes of all shards, by split: a folder imported anew is other data."""
        return {
            split: [shard["sha256"] for shard in entry["shards"]]
            for split, entry in self._splits().items()
        }

    def _splits(self) -> dict[str, Any]:
        # the plain file: `shards.Manifest` brings numpy and Pillow, and `check` needs neither
        file = Path(self.path).expanduser() / "manifest.json"
        try:
            splits = json.loads(file.read_text(encoding="utf-8"))["splits"]
            for entry in splits.values():
                _ = int(entry["samples"]), dict(entry["types"]), entry["shards"]
        except FileNotFoundError:
            raise UserError(f"{file} is missing: `data import` writes such a folder") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is no manifest of shards ({error!r})") from None
        return splits


SCHEMES = ("", "file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory", "ftp")
"""Schemes of addresses that are opened, all by fsspec; nothing is ever run to read one."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """WebDataset tars read as a stream from where they lie; not exactly resumable."""

    train: str
    """Addresses of the training tars: `https://host/x-{000..099}.tar`, or a local pattern."""
    test: str
    """Addresses of the held-out tars; their first samples are copied to `data.folder` once."""
    test_samples: int = 1000
    """Most held-out samples."""
    shuffle: int = 1000
    """Samples that wait in the buffer from which the next one is drawn."""

    def check(self) -> Iterator[str]:
        """Texts of what is wrong: an address that is not opened, a number below 1."""
        for key in ("train", "test"):
            address = getattr(self, key)
            scheme = urlsplit(address).scheme
            if not address.strip() or address.startswith("pipe:"):
                yield f"{key} is {address!r}: commands are never run, give an address"
            elif scheme not in SCHEMES:
                known = ", ".join(s for s in SCHEMES if s)
                yield f"{key} is {address!r}: {scheme} is not opened; a path or {known}"
        for key in ("test_samples", "shuffle"):
            if getattr(self, key) < 1:
                yield f"{key} is {getattr(self, key)}, must be at least 1"

    def sizes(self) -> dict[str, int]:
        """Nothing is known before it was read."""
        return {}

    def types(self) -> list[str]:
        """Nothing is known before it was read."""
        return []

    def identity(self) -> Any:
        """None: the addresses say it."""
        return None
