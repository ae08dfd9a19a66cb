"""Conversations and their image files to one shard, by a process of its own; bad ones are named."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from eramv_lab.data.formats.conversation import Conversation, Unusable
from eramv_lab.data.images import for_shard
from eramv_lab.data.shards import Asked, Packed, write_shard
from eramv_lab.errors import LabError

MOST_BYTES = 2**30
"""Most bytes of one image file."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A conversation on its way into a shard."""

    number: int
    """Its place in what is imported."""
    key: str
    """Of its members."""
    name: str
    """Unique in the data set: the keys of its questions begin with it."""
    said: Conversation


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to write: `<work>/shards/<name>.tar`, and `<work>/<name>.json` when it is whole."""

    name: str
    work: str
    images: str
    items: Sequence[Item]

    @property
    def tar(self) -> Path:
        """Where the shard will lie."""
        return Path(self.work, "shards", f"{self.name}.tar")

    @property
    def note(self) -> Path:
        """What tells that the shard is whole: its ShardInfo, and the items left out."""
        return Path(self.work, f"{self.name}.json")


def pack(job: Job, parent: int | None = None) -> None:
    """Write the shard of a job and then its note; files are written beside and renamed.

    Items that are Unusable are left out and named in the note. `parent`: stop when this process
    is no longer the parent, so that nothing is written behind the back of whoever comes next.
    Raises OSError where the shard cannot be written.
    """
    skipped: list[tuple[int, str]] = []

    def packed() -> Iterator[Packed]:
        for item in job.items:
            if parent is not None and os.getppid() != parent:
                sys.exit("the import has ended")
            try:
                yield _packed(item, job.images)
            except Unusable as error:
                skipped.append((item.number, str(error)))

    fresh = job.note.with_suffix(f".{os.getpid()}")
    try:
        shard = write_shard(fresh, packed(), name=job.tar.name)
        if shard.samples:
            fresh.replace(job.tar)
        note = {"shard": asdict(shard) if shard.samples else None, "skipped": skipped}
        fresh.write_text(json.dumps(note))
        fresh.replace(job.note)
    finally:
        fresh.unlink(missing_ok=True)


def pack_apart(job: Job) -> None:
    """As `pack`, by a program of its own: neither the caller's script nor torch comes along."""
    done = subprocess.run(
        [sys.executable, "-m", "eramv_lab.data.packing", str(os.getpid())],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if done.returncode != 0:
        raise LabError(done.stderr.strip() or f"ended with code {done.returncode}")


def find_image(images: str, name: str) -> str:
    """The path of an image file below the folder `images`. Raises Unusable where there is none.

    Links are the user's own and are followed; a name that would leave the folder is not.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise Unusable("the path leaves the image folder")
    try:
        path = os.path.realpath(os.path.join(images, name), strict=True)
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("no such image file") from None
    except OSError as error:
        raise Unusable(f"the image file cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("no such image file") from None  # a name that no file can have
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("the image is no plain file")
    if found.st_size > MOST_BYTES:
        raise Unusable(f"the image file is too large: {found.st_size:,} bytes")
    return path


def read_image(images: str, name: str) -> tuple[str, bytes]:
    """Ending and bytes of an image as a shard keeps it. Raises Unusable with the reason."""
    path = find_image(images, name)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Unusable(f"the image file cannot be read: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of pictures that are named here anyway
            return for_shard(content)
    except ValueError as error:
        raise Unusable(str(error)) from None


def _packed(item: Item, images: str) -> Packed:
    said = item.said
    asked = [
        Asked(f"{item.name}-{number}", question, answer, said.type, number > 0)
        for number, (question, answer) in enumerate(said.turns)
    ]
    image = None if said.image is None else read_image(images, said.image)
    return Packed(item.key, asked, image)


def _main() -> None:
    plain: dict[str, Any] = json.load(sys.stdin)
    items = [Item(**{**item, "said": Conversation(**item["said"])}) for item in plain.pop("items")]
    try:
        pack(Job(**plain, items=items), parent=int(sys.argv[1]))
    except OSError as error:
        sys.exit(f"{error.filename or plain['work']}: {error.strerror}")


if __name__ == "__main__":
    _main()
