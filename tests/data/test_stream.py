"""A stream's order: every sample of an epoch once, as a seed gives it, whoever reads."""

import itertools
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data.streams import EVERY, keys, shard, stream, take


def test_an_epoch_has_every_sample_once_and_the_next_one_another_order(eight):
    items = take(stream(eight / "*.tar"), 80)
    first, second = keys(items[:40]), keys(items[40:])
    assert set(first) == set(second) == EVERY
    assert first != second and first != sorted(first)
    assert items[0].image_HWC.shape == (8, 8, 3) and items[0].image_HWC.dtype == np.uint8
    assert items[0].questions[0].key == f"{items[0].key}-0"


def test_same_seed_same_order(eight):
    order = keys(take(stream(eight / "*.tar"), 60))
    assert keys(take(stream(eight / "x-{000..007}.tar"), 60)) == order
    assert keys(take(stream(eight / "*.tar", seed=4), 60)) != order


def test_start_epoch_and_a_second_iteration_go_on_with_another_epoch(eight):
    once = stream(eight / "*.tar")
    both = keys(take(once, 40)), keys(take(once, 40))
    assert both[0] != both[1] and set(both[1]) == EVERY
    assert keys(take(stream(eight / "*.tar", start_epoch=1), 40)) == both[1]


def test_probe_takes_nothing_away(eight):
    probed = stream(eight / "*.tar")
    probed.probe()
    assert keys(take(probed, 40)) == keys(take(stream(eight / "*.tar"), 40))


def test_ranks_share_the_shards(eight):
    parts = [keys(take(stream(eight / "*.tar", rank=r, ranks=2), 20)) for r in (0, 1)]
    assert set(parts[0]) | set(parts[1]) == EVERY and not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("ranks", [3, 9])
def test_uneven_and_too_few_shards(eight, ranks):
    # three ranks: 3, 3 and 2 shards; nine: more than shards, so each reads all of them
    parts = [stream(eight / "*.tar", rank=r, ranks=ranks) for r in range(ranks)]
    counts = [15, 15, 10] if ranks == 3 else [40] * 9
    seen = [keys(take(part, count)) for part, count in zip(parts, counts, strict=True)]
    assert Counter(itertools.chain(*seen)) == {key: 1 if ranks == 3 else 9 for key in EVERY}
    assert len({tuple(part) for part in seen}) == ranks


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_in_a_loader(eight, workers):
    def all_keys(rank: int) -> list[str]:
        dataset = stream(eight / "*.tar", rank=rank, ranks=2)
        loader = DataLoader(
            dataset.batches(5),
            batch_size=None,
            collate_fn=lambda batch: (keys(batch.samples), keys(batch.broken)),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        batches = list(itertools.islice(loader, 4))
        assert all(len(samples) == 5 and not broken for samples, broken in batches)
        return [key for samples, _ in batches for key in samples]

    assert sorted(all_keys(0) + all_keys(1)) == sorted(EVERY)


def test_more_workers_than_shards(tmp_path):
    (tmp_path / "x.tar").write_bytes(shard("a", "b"))
    loader = DataLoader(
        stream(tmp_path / "x.tar").batches(2),
        batch_size=None,
        collate_fn=lambda batch: sorted(keys(batch.samples)),
        num_workers=2,
    )
    assert list(itertools.islice(loader, 4)) == [["a", "b"]] * 4


def test_it_says_that_it_is_not_exactly_resumable(eight):
    text = stream(eight / "*.tar").describe()
    assert "8 shards" in text and "not exactly resumable" in text
