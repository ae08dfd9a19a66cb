"""The held-out samples of a stream, copied once into a local folder of shards."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from eramv_lab.data.files import locked, progress
from eramv_lab.data.remote import IMAGES, WAITS
from eramv_lab.data.shards import Manifest, Packed, write_shard
from eramv_lab.data.sources import StreamConfig, public
from eramv_lab.data.stream import FIRST, Found, Streamed, groups, usable_or_broken
from eramv_lab.errors import LabError, UserError
from eramv_lab.files import made_beside

log = logging.getLogger(__name__)

PER_SHARD = 1000


def held_out(
    config: StreamConfig,
    folder: Path | str,
    split: str = "test",
    *,
    shown: bool = True,
    waits: Sequence[float] = WAITS,
) -> Path:
    """The folder with the first `test_samples` usable samples of a held-out split.

    It lies at `<folder>/streams/<hash of addresses, count, split>` and is copied where it is not
    yet there or damaged; two calls at the same time copy once. Samples keep the order of the
    addresses, get a running number as their key, and put it before the keys of their questions
    (shards may use the same keys). Broken samples are left out, logged, and told in the manifest.
    Raises LabError for a shard that cannot be read, so that no smaller set stands in for the
    whole one, and where no sample is usable; UserError as `StreamConfig.addresses`.
    """
    addresses = config.addresses(split)
    told = json.dumps([addresses, config.test_samples, *([] if split == "test" else [split])])
    target = Path(folder) / "streams" / hashlib.sha256(told.encode()).hexdigest()[:8]
    with locked(target):
        if not _stands(target):
            with made_beside(target) as fresh:
                _copy(addresses, config, split, fresh, waits, shown=shown)
    return target


def _stands(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        Manifest.load(folder).verify(folder)
    except UserError as error:
        log.warning("damaged copy of held-out samples, copied again: %s", error)
        return False
    return True


def _usable(
    addresses: Sequence[str],
    written: str,
    waits: Sequence[float],
    skipped: list[dict[str, str]],
) -> Iterator[Packed]:
    found, any_usable = Found(), False
    for group in groups(addresses, waits):
        item = usable_or_broken(group)
        if isinstance(item, Streamed):
            any_usable = True
            # the bytes as they came: decoded to see that they are good, and kept
            images = ((ending, group[ending]) for ending in IMAGES if ending in group)
            yield Packed(item.key, item.questions, next(images, None))
        elif not group["__url__"]:
            raise LabError(f"held-out samples: {item}")
        else:
            log.warning("held-out sample left out: %s", item)
            file = public(group["__url__"])
            skipped.append({"id": item.key, "file": file, "reason": item.reason})
            if found.add(group, item) >= FIRST and not any_usable:
                break
    if not any_usable:
        raise found.error(public(written))


def _copy(
    addresses: Sequence[str],
    config: StreamConfig,
    split: str,
    folder: Path,
    waits: Sequence[float],
    *,
    shown: bool,
) -> None:
    skipped: list[dict[str, str]] = []
    written: str = getattr(config, split)
    samples = _usable(addresses, written, waits, skipped)
    some = itertools.islice(samples, config.test_samples)
    shown_some = progress(some, config.test_samples, "copying held-out samples", shown=shown)
    numbered = itertools.starmap(_numbered, enumerate(shown_some))
    shards = []
    for number, first in enumerate(numbered):
        part = itertools.chain([first], itertools.islice(numbered, PER_SHARD - 1))
        shards.append(write_shard(folder / f"{split}-{number:06d}.tar", part))
    told = {split: public(written), "test_samples": config.test_samples}
    Manifest(config=told, splits={split: shards}, skipped=skipped).save(folder)


def _numbered(index: int, sample: Packed) -> Packed:
    asked = [q._replace(key=f"{index:06d}-{q.key}") for q in sample.asked]
    image = sample.image
    if image and image[0] == "jpeg":
        image = ("jpg", image[1])
    return Packed(f"{index:06d}", asked, image)
