"""Data that is not drawn here: a folder of imported shards, or a stream of remote ones."""

from __future__ import annotations

import glob
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from braceexpand import braceexpand

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
        folder = Path(self.path).expanduser()
        shards = [str(shard["name"]) for entry in splits.values() for shard in entry["shards"]]
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            yield f"{self.path} lacks {', '.join(missing[:3])}{more}, which its manifest names"

    def sizes(self) -> dict[str, int]:
        """Samples of each split."""
        splits = self._splits()
        return {split: int(entry["samples"]) for split, entry in splits.items()}

    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(split for split, count in self.sizes().items() if count)

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
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file} is no manifest of shards ({error!r})") from None
        return splits


SCHEMES = ("", "file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "hf", "memory", "ftp")
"""Schemes of addresses that are opened, all by fsspec; nothing is ever run to read one."""
LOCAL = ("", "file")
MOST_ADDRESSES = 100_000


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """WebDataset tars read as a stream from where they lie; not exactly resumable."""

    train: str
    """Addresses of the training tars: `https://host/x-{000..099}.tar`, or a local pattern."""
    test: str
    """Addresses of the held-out tars; their first samples are copied to `data.folder` once."""
    val: str | None = None
    """Addresses of the tars that validation and searches look at, copied likewise; none: `test`
    is looked at."""
    test_samples: int = 1000
    """Most samples of `test`, and of `val`."""
    shuffle: int = 1000
    """Samples that wait in the buffer from which the next one is drawn."""

    def check(self) -> Iterator[str]:
        """Texts of what is wrong: addresses that are not opened or not there, a number below 1."""
        seen: dict[str, list[str]] = {}
        for split in self.splits():
            try:
                seen[split] = self.addresses(split)
            except UserError as error:
                yield from (problem.render() for problem in error.problems)
        for one, other in itertools.combinations(seen, 2):
            if shared := sorted(set(seen[one]) & set(seen[other])):
                more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
                yield f"{one} and {other} share {', '.join(map(public, shared[:3]))}{more}"
        for key in ("test_samples", "shuffle"):
            if getattr(self, key) < 1:
                yield f"{key} is {getattr(self, key)}, must be at least 1"

    def addresses(self, split: str) -> list[str]:
        """The tars of a split, each by its own address: braces filled in, local patterns found.

        Raises UserError where braces do not close or stand for too many tars, where an address
        is not opened, and where no local file matches.
        """
        written: str = getattr(self, split)
        try:
            expanded = _expanded(written)
        except ValueError as error:
            raise UserError(f"{split} is {written!r}: {error}") from None
        # every address is looked at once its braces are gone: `{pipe:,}x` is none before
        if wrong := next(filter(None, map(_refused, expanded)), None):
            raise UserError(f"{split} is {written!r}: {wrong}")
        found = [(address, _found(address)) for address in expanded]
        if missing := next((address for address, files in found if not files), None):
            raise UserError(f"{split} is {written!r}: no file {missing}")
        return [file for _, files in found for file in files]

    def sizes(self) -> dict[str, int]:
        """Nothing is known before it was read."""
        return {}

    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return ("train", "test") if self.val is None else ("train", "test", "val")

    def types(self) -> list[str]:
        """Nothing is known before it was read."""
        return []

    def identity(self) -> Any:
        """None: the addresses say it."""
        return None


def _expanded(written: str) -> list[str]:
    # braceexpand holds each range in memory, so it is measured first
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", written)
    if math.prod(abs(int(last) - int(first)) + 1 for first, last in ranges) > MOST_ADDRESSES:
        raise ValueError(f"more than {MOST_ADDRESSES:,} addresses")
    expanded = list(itertools.islice(braceexpand(written), MOST_ADDRESSES + 1))
    if len(expanded) > MOST_ADDRESSES:
        raise ValueError(f"more than {MOST_ADDRESSES:,} addresses")
    return expanded


def _refused(address: str) -> str | None:
    """Why an address is not opened."""
    try:
        scheme = urlsplit(address).scheme
    except ValueError as error:
        return f"no address ({error})"
    if scheme == "pipe":
        return "commands are never run"
    if not address.strip() or scheme not in SCHEMES or "::" in address:
        known = ", ".join(s for s in SCHEMES if s)
        return f"{address!r} is not opened; a path, or an address of {known}"
    if scheme not in LOCAL and "*" in address:
        return "a pattern is for local files; for others write {000..099}"
    return None


def _found(address: str) -> list[str]:
    if urlsplit(address).scheme not in LOCAL:
        return [address]
    path = Path(address.removeprefix("file://")).expanduser()
    names = [str(path)] if path.is_file() else sorted(glob.glob(str(path)))
    return [name for name in names if Path(name).is_file()]


def public(address: str) -> str:
    """An address without what may be secret in it: the password and the signature."""
    if urlsplit(address).scheme in LOCAL:
        return address
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
