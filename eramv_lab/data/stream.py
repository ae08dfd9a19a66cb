"""Samples from tars that are read as a stream, without end, in an order that a seed gives."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import shuffle
from webdataset.tariterators import group_by_keys

from eramv_lab.data.formats import llava
from eramv_lab.data.images import decode
from eramv_lab.data.remote import IMAGES, REFUSED, WAITS, expand
from eramv_lab.data.shards import Asked, BrokenSample
from eramv_lab.data.sources import StreamConfig, public
from eramv_lab.errors import LabError

FIRST = 1000
"""So many samples in a row without a usable one are the end of it."""
WANTED = f"json (with `questions` or `conversations`), at most one of {', '.join(IMAGES)}"
NOT_RESUMABLE = (
    "a stream is not exactly resumable: a continued run does not take up the order where it "
    "stopped, but begins another one, so its weights are not those of an uninterrupted run"
)
"""What a run on a stream says of itself."""


class Streamed(NamedTuple):
    """One sample of a stream."""

    key: str
    image_HWC: np.ndarray | None
    """uint8 RGB [H,W,3]; None where the sample is text alone."""
    questions: list[Asked]


class StreamedBatch(NamedTuple):
    """So many samples as were asked for, and the broken ones that were met on the way."""

    samples: list[Streamed]
    broken: list[BrokenSample]


class StreamDataset(IterableDataset[Streamed | BrokenSample]):
    """The samples of a split, epoch after epoch without end; a broken one comes as BrokenSample.

    The order follows from the seed, the epoch, and which of how many ranks and workers reads.
    The shards are split over them; where there are fewer than readers, each reader reads all in
    an order of its own. Iterated again, it goes on with the next epoch. `start_epoch`: the first
    one; a continued run gives its step, for an order that it has not had. `waits`: seconds before
    a shard is tried again. Iterating raises LabError where FIRST samples in a row, or all shards,
    give no usable one; the constructor raises UserError as `StreamConfig.addresses`.
    """

    def __init__(
        self,
        config: StreamConfig,
        split: str,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start_epoch: int = 0,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self.addresses = config.addresses(split)
        self.written, self.buffer = public(getattr(config, split)), config.shuffle
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.epoch, self.waits = start_epoch, waits

    def describe(self) -> str:
        """What this source is, for the log and the result of a run."""
        return f"stream of {len(self.addresses)} shards ({self.written}): {NOT_RESUMABLE}"

    def probe(self) -> None:
        """Read up to the first usable sample, so that a stream without one fails here and now.

        In a worker process the same error would arrive inside a traceback.
        """
        epoch = self.epoch
        next(item for item in self if isinstance(item, Streamed))
        self.epoch = epoch

    def batches(self, size: int) -> StreamBatches:
        """The usable samples, `size` at a time."""
        return StreamBatches(self, size)

    def __iter__(self) -> Iterator[Streamed | BrokenSample]:
        reader, readers = _reader(self.rank, self.ranks)
        found, everything = Found(), False
        while True:
            epoch, self.epoch = self.epoch, self.epoch + 1
            addresses = order(
                self.addresses,
                seed=self.seed,
                epoch=epoch,
                reader=reader,
                readers=1 if everything else readers,
            )
            rng = random.Random(f"{self.seed}/{epoch}/{reader}/buffer")
            usable = False
            for group in shuffle(self.buffer, rng=rng)(groups(addresses, self.waits)):
                item = usable_or_broken(group)
                if isinstance(item, Streamed):
                    usable, found = True, Found()
                elif found.add(group, item) >= FIRST:
                    raise found.error(self.written)
                yield item
            if not usable and (everything or len(addresses) == len(self.addresses)):
                raise found.error(self.written)
            everything = not usable  # the shards of the others may be better


class StreamBatches(IterableDataset[StreamedBatch]):
    """A stream in batches of one size, for a DataLoader with `batch_size=None`.

    Its `collate_fn` then gets a StreamedBatch, in the worker.
    """

    def __init__(self, stream: StreamDataset, size: int) -> None:
        self.stream, self.size = stream, size

    def __iter__(self) -> Iterator[StreamedBatch]:
        batch = StreamedBatch([], [])
        for item in self.stream:
            if isinstance(item, BrokenSample):
                batch.broken.append(item)
            else:
                batch.samples.append(item)
            if len(batch.samples) == self.size:
                yield batch
                batch = StreamedBatch([], [])


class Found:
    """What the samples held among which none was usable."""

    def __init__(self) -> None:
        self.samples = 0
        self.endings = Counter[str]()
        self.broken: list[BrokenSample] = []

    def add(self, group: Mapping[str, Any], broken: BrokenSample) -> int:
        """Count one more; returns how many there are."""
        self.samples += 1
        members = (ending.removeprefix(".") for ending in group if not ending.startswith("__"))
        self.endings.update(ending for ending in members if ending != REFUSED)
        self.broken = [*self.broken, broken][:5]
        return self.samples

    def error(self, where: str) -> LabError:
        """The error that shows the keys found, the keys wanted and the first reasons."""
        counted = ", ".join(f"{ending} ({n})" for ending, n in self.endings.most_common(20))
        lines = [
            f"no usable sample among {self.samples:,} of {where}",
            f"    keys found: {counted or 'none'}",
            f"    keys wanted: {WANTED}",
            *(f"    {broken}" for broken in self.broken),
        ]
        return LabError("\n".join(lines))


def order(
    addresses: Sequence[str], *, seed: int, epoch: int, reader: int, readers: int
) -> list[str]:
    """The shards that one of `readers` reads in an epoch, in its order."""
    if readers == 1 or len(addresses) < readers:
        rng = random.Random(f"{seed}/{epoch}/{reader}")
        return rng.sample(addresses, len(addresses))
    shuffled = random.Random(f"{seed}/{epoch}").sample(addresses, len(addresses))
    return shuffled[reader::readers]


def groups(addresses: Iterable[str], waits: Sequence[float] = WAITS) -> Iterator[dict[str, Any]]:
    """The members of each sample by their endings, beside its `__key__` and `__url__`."""
    # the names come split already
    return group_by_keys(cast(Any, expand(addresses, waits)), keys=cast(Any, tuple))


def usable_or_broken(group: Mapping[str, Any]) -> Streamed | BrokenSample:
    """The sample of a group, or why there is none."""
    key, address = group["__key__"], public(group["__url__"])
    key = key if key.isprintable() else ascii(key)
    try:
        if REFUSED in group:
            raise ValueError(group[REFUSED])
        image_HWC, questions = sample_of(key, group)
    except ValueError as error:
        return BrokenSample(key, f"{error} ({address})" if address else str(error))
    return Streamed(key, image_HWC, questions)


def sample_of(key: str, members: Mapping[str, Any]) -> tuple[np.ndarray | None, list[Asked]]:
    """Image and questions of members by their endings. Raises ValueError, saying why not."""
    if "json" not in members:
        raise ValueError("no json member beside the others")
    images = [ending for ending in IMAGES if ending in members]
    if len(images) > 1:
        raise ValueError(f"more than one image: {', '.join(images)}")
    questions = _questions(key, members["json"], pictured=bool(images))
    return decode(members[images[0]]) if images else None, questions


def _reader(rank: int, ranks: int) -> tuple[int, int]:
    info = get_worker_info()
    worker, workers = (info.id, info.num_workers) if info else (0, 1)
    return rank * workers + worker, ranks * workers


def _questions(key: str, content: bytes, *, pictured: bool) -> list[Asked]:
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the json member is no JSON: {error}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"the json member is a {type(plain).__name__}, must be an object")
    if "questions" in plain:
        return _own(plain["questions"])
    if "conversations" in plain:
        return _turns(key, plain, pictured=pictured)
    keys = ", ".join(itertools.islice(plain, 20))
    raise ValueError(f"the json member has the keys {keys!r}, wanted: questions or conversations")


def _own(listed: Any) -> list[Asked]:
    texts = ("key", "question", "answer", "type")
    if not isinstance(listed, list) or not listed:
        raise ValueError("questions must be a list with at least one")
    for number, each in enumerate(listed):
        if not isinstance(each, dict) or not all(isinstance(each.get(k), str) for k in texts):
            raise ValueError(f"questions.{number} must have texts as {', '.join(texts)}")
        if not isinstance(each.get("follows", False), bool):
            raise ValueError(f"questions.{number}.follows must be true or false")
    kept = (*texts, "follows")
    return [Asked(**{k: v for k, v in each.items() if k in kept}) for each in listed]


def _turns(key: str, plain: dict[str, Any], *, pictured: bool) -> list[Asked]:
    """A conversation as LLaVA writes it: its question-answer pairs, each following the last."""
    if plain.get("image") and not pictured:
        raise ValueError("it speaks of an image, and no image member is there")
    said = llava.parse(plain | {"image": key if pictured else None})
    kind = plain.get("type") or plain.get("category")
    return [
        Asked(f"{key}-{turn}", question, answer, kind or "conversation", follows=turn > 0)
        for turn, (question, answer) in enumerate(said.turns)
    ]
