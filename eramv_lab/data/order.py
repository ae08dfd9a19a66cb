"""The order of training data: a function of (seed, epoch), even over ranks, begun anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class Batches(Sampler[list[int]]):
    """The batches of indices that one rank reads, for a DataLoader's `batch_sampler`.

    Training (`shuffle`): each epoch is a permutation of its own; every rank gets the same number
    of full batches, and what is left over sits this epoch out. Otherwise: every index once, in
    order, in batches that are equal to within one. Workers take batches in turn, so their number
    changes nothing. Each iteration runs the next epoch.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
    ) -> None:
        if length < ranks * (batch if shuffle else 1):
            raise ValueError(f"{length} samples are too few for {ranks} x {batch}")
        self.length, self.batch, self.shuffle = length, batch, shuffle
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        if self.shuffle:
            return self.length // (self.batch * self.ranks)
        return min(-(-self.length // (self.batch * self.ranks)), self.length // self.ranks)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of an epoch in the order that all ranks together read them."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng([self.seed, epoch]).permutation(self.length)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """This rank's batches of an epoch."""
        steps, order = len(self), self.order(epoch)
        if self.shuffle:
            order = order[: steps * self.ranks * self.batch]
        return [
            b.tolist() for b in np.array_split(order, steps * self.ranks)[self.rank :: self.ranks]
        ]

    def go_to(self, step: int) -> None:
        """Let the next iteration begin `step` batches after the very first one."""
        self.epoch, self.start = divmod(step, len(self))

    def __iter__(self) -> Iterator[list[int]]:
        # a generator: a DataLoader with workers asks for two iterators and uses the second
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        yield from self.of_epoch(epoch)[start:]
