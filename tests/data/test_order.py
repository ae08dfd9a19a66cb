"""The order of the data: exact, different every epoch, even over ranks and workers."""

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from eramv_lab.data.order import Batches


class Numbers(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return index


def flat(batches):
    return [int(i) for batch in batches for i in batch]


def test_order_is_a_function_of_seed_and_epoch():
    one, other = Batches(100, 8, seed=3), Batches(100, 8, seed=3)
    first, second = one.of_epoch(0), one.of_epoch(1)
    assert first == list(other) and first != second
    assert first != Batches(100, 8, seed=4).of_epoch(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_three_ranks_share_an_epoch_evenly(workers):
    seen = []
    for rank in range(3):
        batches = Batches(100, 8, seed=1, rank=rank, ranks=3)
        loader = DataLoader(Numbers(), batch_sampler=batches, num_workers=workers)
        got = [batch.tolist() for batch in loader]
        assert len(got) == len(loader) == 4 and all(len(b) == 8 for b in got)
        assert got == batches.of_epoch(0)  # the number of workers changes nothing
        seen += flat(got)
    assert len(seen) == len(set(seen)) == 96


def test_what_sits_out_changes_by_epoch():
    batches = Batches(100, 8, seed=1)
    left_out = [set(range(100)) - set(flat(batches.of_epoch(e))) for e in range(4)]
    assert all(len(s) == 4 for s in left_out) and len(set(map(frozenset, left_out))) > 1


@pytest.mark.parametrize("length", [9, 10, 11, 23, 24, 25, 100])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_unshuffled_reads_every_index_once(length, ranks, batch):
    parts = [
        Batches(length, batch, rank=r, ranks=ranks, shuffle=False).of_epoch(0) for r in range(ranks)
    ]
    assert len({len(p) for p in parts}) == 1
    assert sorted(flat(b for p in parts for b in p)) == list(range(length))
    sizes = [len(b) for p in parts for b in p]
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= max(batch, 2)


def test_begun_anywhere_it_goes_on_exactly():
    whole = Batches(50, 8, seed=5)
    whole.span(0, 20)  # 6 an epoch
    endless = list(whole)
    assert endless == [b for epoch in range(4) for b in whole.of_epoch(epoch)][:20]
    resumed = Batches(50, 8, seed=5)
    resumed.span(8, 20)
    assert list(resumed) == endless[8:] and len(resumed) == 12


def test_batches_by_length_hold_near_lengths_and_one_kind():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 500)
    lengths[::5] *= -1  # without an image
    ranks = [Batches(500, 8, seed=2, rank=r, ranks=2, lengths=lengths) for r in range(2)]
    plain = Batches(500, 8, seed=2, ranks=2)
    assert {b.each for b in ranks} == {plain.each}
    parts = [b.of_epoch(1) for b in ranks]
    assert len(set(flat(parts[0] + parts[1]))) == 31 * 16
    mixed = 0
    for pair in zip(*parts, strict=True):
        both = lengths[flat(pair)]
        mixed += len(set(both > 0)) == 2
    assert mixed <= 1

    def spread(batches):
        return np.mean([np.ptp(np.abs(lengths[b])) for b in batches.of_epoch(1)])

    assert spread(ranks[0]) < spread(plain) / 4
    assert parts[0] != ranks[0].of_epoch(2)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="too few"):
        Batches(10, 8, ranks=2)
