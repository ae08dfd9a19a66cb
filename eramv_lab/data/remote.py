"""Members of tars read from where they lie: opened by fsspec, only images and JSON are read.

`webdataset` expands tars too, but drops links without a word, takes a tar that ends early for a
whole one, and reads members of any size; and its own opener runs commands. So a shard is opened
and unpacked here, and grouped and shuffled by `webdataset`.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, TypedDict, cast

import aiohttp
import fsspec
from webdataset.tariterators import base_plus_ext

from eramv_lab.data.sources import public

IMAGES = ("jpg", "jpeg", "png", "webp")
READ = (*IMAGES, "json")
PICKLES = ("pkl", "pickle", "pyd", "pt", "pth")
REFUSED = "refused"
"""Ending under which a sample carries why it cannot be used."""
LARGEST = 256 * 2**20
"""Bytes of the largest member that is read."""
WAITS = (0.5, 2.0, 8.0)
"""Seconds before a shard that did not open, or broke off, is tried again."""
CHUNK = 2**20
"""Bytes that are asked for at once; tarfile itself reads far smaller pieces."""


class Member(TypedDict):
    """One member as `webdataset.tariterators.group_by_keys` takes it; `{}` ends a shard.

    `fname` is (key, ending); the ending of a member that is not read begins with a dot, and its
    data is None. `data` of the ending REFUSED is the reason.
    """

    fname: tuple[str, str]
    data: bytes | str | None
    __url__: str


def expand(addresses: Iterable[str], waits: Sequence[float] = WAITS) -> Iterator[Member]:
    """The members of the tars at `addresses`, in order; raises nothing for a bad shard.

    A shard that does not open or breaks off is a sample of its own, its key the address, with
    nothing but REFUSED; so is the sample within which it broke off.
    """
    for address in addresses:
        yield from _members(address, waits)
        yield cast(Member, {})


def _members(address: str, waits: Sequence[float]) -> Iterator[Member]:
    key, given = "", set[str]()

    def member(ending: str, data: bytes | str | None) -> Iterator[Member]:
        if ending not in given:
            given.add(ending)
            yield Member(fname=(key, ending), data=data, __url__=address)

    try:
        with (
            _Shard(address, waits) as file,
            tarfile.open(fileobj=cast(Any, file), mode="r|") as tar,
        ):
            for info in tar:
                vars(tar)["members"] = []  # tarfile keeps every header that it has passed
                of, ending = _split(info.name)
                if not of or info.isdir():
                    continue
                if of != key:
                    key, given = of, set()
                if reason := _refusal(info, ending, given):
                    yield from member(REFUSED, reason)
                elif ending in READ:
                    yield from member(ending, cast(Any, tar.extractfile(info)).read())
                else:
                    yield from member(f".{ending}", None)
            if not file.ended:
                raise tarfile.ReadError("no header of a member where one must be")
    except Exception as error:  # whatever a tar's bytes or a file system's library raise
        if key:
            yield from member(REFUSED, "its shard broke off here")
        shown = public(address)
        error = _root(error)
        why = f"{type(error).__name__}: {error}".replace(address, shown)
        yield cast(Member, {})
        yield Member(fname=(shown, REFUSED), data=f"the shard cannot be read: {why}", __url__="")


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member; no key where the name has none and does no harm."""
    key, ending = base_plus_ext(name)
    if key is not None and ending is not None:
        return key, ending.lower()
    return (name, "") if _leaves(name) else ("", "")


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _refusal(info: tarfile.TarInfo, ending: str, given: set[str]) -> str | None:
    if _leaves(info.name):
        return f"member {info.name!r} is refused: its name leaves the shard"
    if not info.isreg() or info.issparse():
        return f"member {info.name!r} is refused: not a plain file"
    if ending.rpartition(".")[2] in PICKLES:
        return f"member {info.name!r} is refused: pickles can run anything"
    if ending in READ and info.size > LARGEST:
        return f"member {info.name!r} is refused: {info.size} bytes"
    if ending in READ and ending in given:
        return f"member {info.name!r} is there twice"
    return None


class _Shard:
    """The bytes of one shard from first to last, read on after a break where that can be."""

    def __init__(self, address: str, waits: Sequence[float]) -> None:
        self.address, self.waits = address, waits
        self.position, self.chunk, self.used, self.last = 0, b"", 0, b""
        self.file = self._tried(self._open)

    @property
    def ended(self) -> bool:
        """Whether what was read last is the block of zeros that ends a tar."""
        return self.last == bytes(tarfile.BLOCKSIZE)

    def read(self, size: int) -> bytes:
        """At most `size` bytes more. Raises EOFError at the end: a whole tar is not read so far."""
        if self.used == len(self.chunk):
            self.chunk, self.used = self._next(), 0
        part = self.chunk[self.used : self.used + size]
        self.used += len(part)
        self.last = (self.last + part)[-tarfile.BLOCKSIZE :]
        return part

    def _next(self) -> bytes:
        try:
            chunk = self.file.read(CHUNK)
        except Exception as error:
            try:
                chunk = self._tried(self._again)
            except ValueError:  # what fsspec says where it cannot begin in the middle
                raise error from None
        if not chunk:  # tarfile would go on asking, up to the size that a header claims
            raise EOFError("it ends before its end mark")
        self.position += len(chunk)
        return chunk

    def _again(self) -> bytes:
        self.file.close()
        self.file = self._open()
        self.file.seek(self.position)
        return self.file.read(CHUNK)

    def _open(self) -> Any:
        return cast(Any, fsspec.open(self.address, "rb", **_options(self.address))).open()

    def _tried(self, act: Any) -> Any:
        for wait in self.waits:
            try:
                return act()
            except Exception as error:
                if _is_final(_root(error)):
                    raise
                time.sleep(wait)
        return act()

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _root(error: BaseException) -> BaseException:
    """What went wrong at first: fsspec calls any failure over http a file that is not there."""
    while error.__cause__:
        error = error.__cause__
    return error


def _is_final(error: BaseException) -> bool:
    """Whether a second attempt would end the same way."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in (401, 403, 404, 410)
    same = (FileNotFoundError, IsADirectoryError, PermissionError, ValueError, ImportError)
    return isinstance(error, same)


def _options(address: str) -> dict[str, Any]:
    if not address.startswith(("http://", "https://")):
        return {}
    # aiohttp ends a request after five minutes, however well it goes: a shard can take longer
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return {"client_kwargs": {"timeout": timeout}}
