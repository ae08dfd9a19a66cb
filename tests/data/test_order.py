"""The order of the data: exact, different every epoch, even over ranks and workers."""

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
    first, second = list(one), list(one)
    assert first == other.of_epoch(0) and second == other.of_epoch(1)
    assert first != second
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
    endless = [batch for _ in range(3) for batch in whole]
    resumed = Batches(50, 8, seed=5)
    resumed.go_to(8)  # the third batch of the second epoch
    assert [b for _ in range(2) for b in resumed] == endless[8:]


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="too few"):
        Batches(10, 8, ranks=2)
