"""The order of training data: a function of (seed, epoch), even over ranks, begun anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class Batches(Sampler[list[int]]):
    """The batches of indices that one rank reads, for a DataLoader's `batch_sampler`.

    Training (`shuffle`): each epoch is a permutation of its own; every rank gets the same number
    of full batches, and what is left over sits this epoch out. Otherwise: every index once, in
    order, in batches that are equal to within one. Workers take batches in turn, so their number
    changes nothing. One iteration is the first epoch, or what `span` has set.

    `lengths`: batches are then made of samples of about one length; a negative length is a kind
    of its own (samples without an image) and gets batches of its own.
    """

    NEAR = 50
    """Global batches that are drawn together and sorted by length."""

    def __init__(
        self,
        length: int,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        lengths: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        if length < ranks * (batch if shuffle else 1):
            raise ValueError(f"{length} samples are too few for {ranks} x {batch}")
        self.length, self.batch, self.shuffle = length, batch, shuffle
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.first, self.last = 0, self.each

    @property
    def each(self) -> int:
        """Batches of an epoch, the same on every rank."""
        if self.shuffle:
            return self.length // (self.batch * self.ranks)
        return min(-(-self.length // (self.batch * self.ranks)), self.length // self.ranks)

    def __len__(self) -> int:
        """Batches of an iteration."""
        return self.last - self.first

    def order(self, epoch: int) -> np.ndarray:
        """The indices of an epoch in the order that all ranks together read them."""
        if not self.shuffle:
            return np.arange(self.length)
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.length)
        if self.lengths is None:
            return order
        return self._grouped(order, self.lengths, rng)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch."""
        steps, order = self.each, self.order(epoch)
        if self.shuffle:
            order = order[: steps * self.ranks * self.batch]
        return [
            b.tolist() for b in np.array_split(order, steps * self.ranks)[self.rank :: self.ranks]
        ]

    def span(self, first: int, last: int) -> None:
        """Let iterations go from batch `first` to before batch `last`, counted over epochs."""
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[list[int]]:
        # a generator: a DataLoader with workers asks for two iterators and uses the second
        at = self.first
        while at < self.last:
            epoch, start = divmod(at, self.each)
            part = self.of_epoch(epoch)[start : start + self.last - at]
            yield from part
            at += len(part)

    def _grouped(
        self, order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`order` with its global batches each of one kind and of about one length.

        What fills no batch of one kind makes mixed ones, and then stands at the end.
        """
        size = self.batch * self.ranks
        batches: list[np.ndarray] = []
        over: list[np.ndarray] = []
        for kind in (lengths[order] >= 0, lengths[order] < 0):
            part = order[kind]
            whole = len(part) // size * size
            over.append(part[whole:])
            for near in np.split(part[:whole], range(size * self.NEAR, whole, size * self.NEAR)):
                near = near[np.argsort(-np.abs(lengths[near]), kind="stable")]
                batches += np.split(near, range(size, len(near), size)) if len(near) else []
        rest = np.concatenate(over)
        mixed = len(rest) // size * size
        batches += np.split(rest[:mixed], range(size, mixed, size)) if mixed else []
        batches = [batches[i] for i in rng.permutation(len(batches))]
        return np.concatenate([*batches, rest[mixed:]])
