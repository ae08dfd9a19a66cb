"""Hostile samples and manifests: a broken sample by its key, a manifest by its file."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from data.hostile import GOOD, Bomb, good, member, png, raw, text
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import BrokenSample
from eramv_lab.errors import UserError


def broken(folder: Path, key: str, reading: Callable[[ShardDataset, int], object]) -> str:
    """Reading that sample is a BrokenSample with its key; the one beside it is as good as ever."""
    dataset = ShardDataset(folder, "train")
    index = dataset.keys.index(key)
    with pytest.raises(BrokenSample) as caught:
        reading(dataset, index)
    assert caught.value.key == key
    other = 1 - index
    assert dataset.image(other).shape == (4, 4, 3) and dataset.questions(other)[0].key == "k"
    return caught.value.reason


def test_pickles_under_good_names(shards, tmp_path):
    fired = tmp_path / "fired"
    bomb = pickle.dumps(Bomb(fired))
    folder = shards(raw(member("a.png", bomb), member("a.json", bomb), *good("b")), 2)
    broken(folder, "a", ShardDataset.image)
    broken(folder, "a", ShardDataset.questions)
    broken(folder, "a", ShardDataset.__getitem__)
    assert not fired.exists()
    pickle.loads(bomb)
    assert fired.exists()  # it would have gone off


def test_a_size_that_reaches_into_the_end(shards):
    # more than its content, still within the file: the text then ends in zeros
    lie = member("b.json", text(), size=len(text()) + 100)
    folder = shards(raw(member("a.png", png()), member("a.json", text()), lie), 2)
    dataset = ShardDataset(folder, "train")
    with pytest.raises(BrokenSample):
        dataset.questions(dataset.keys.index("b"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b'"questions"',
        b"{",
        b"\xff\xfe{}",
        b"\x00",
        b"{}",
        b"NaN",
        b"[" * 100_000,
        b'{"questions": ' * 50_000,
        b'{"questions": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(13),
)
def test_text_that_is_no_object(shards, content):
    folder = shards(raw(member("a.png", png()), member("a.json", content), *good("b")), 2)
    broken(folder, "a", ShardDataset.questions)
    broken(folder, "a", ShardDataset.__getitem__)
    assert ShardDataset(folder, "train").image(0).shape == (4, 4, 3)


ASKED = GOOD["questions"][0]


@pytest.mark.parametrize(
    "plain",
    [
        {"questions": None},
        {"questions": []},
        {"questions": {}},
        {"questions": "what?"},
        {"questions": [None]},
        {"questions": ["what?"]},
        {"questions": [["k", "what?", "that", "t"]]},
        {"questions": [{}]},
        {"questions": [{**ASKED, "key": 3}]},
        {"questions": [{**ASKED, "question": None}]},
        {"questions": [{**ASKED, "answer": ["that"]}]},
        {"questions": [{**ASKED, "answer": 1.5}]},
        {"questions": [{**ASKED, "type": {}}]},
        {"questions": [{**ASKED, "follows": "yes"}]},
        {"questions": [{**ASKED, "follows": 1}]},
        {"questions": [{**ASKED, "__class__": "os.system"}]},
        {"questions": [ASKED], "objects": 3},
        {"questions": [ASKED], "objects": ["x"]},
    ],
    ids=range(18),
)
def test_fields_of_another_kind(shards, plain):
    folder = shards(raw(member("a.png", png()), member("a.json", text(plain)), *good("b")), 2)
    broken(folder, "a", ShardDataset.__getitem__)


@pytest.mark.parametrize(
    "content", [b"", b"x", png()[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"]
)
def test_an_image_that_is_none(shards, content):
    folder = shards(raw(member("a.png", content), member("a.json", text()), *good("b")), 2)
    assert broken(folder, "a", ShardDataset.image)
    assert ShardDataset(folder, "train").questions(0)[0].answer == "that"


@pytest.mark.parametrize(
    "name", ["../train-0.tar", "/train-0.tar", "sub/train-0.tar", "", ".", ".."]
)
def test_shard_names_that_leave_the_folder(shards, name):
    folder = shards(raw(*good("a")), name=name)
    (folder.parent / "train-0.tar").write_bytes(raw(*good("a")))
    with pytest.raises(UserError, match=r"beside its manifest|missing"):
        ShardDataset(folder, "train")


@pytest.mark.parametrize(
    "changed",
    [
        {"name": 3},
        {"name": None},
        {"name": ["train-0.tar"]},
        {"name": "train-0.tar\0"},
        {"samples": "1"},
        {"samples": None},
        {"samples": -1},
        {"bytes": "many"},
        {"sha256": 3},
        {"types": 3},
        {"types": {"t": "x"}},
    ],
    ids=str,
)
def test_manifests_with_fields_of_another_kind(shards, changed):
    folder = shards(raw(*good("a")), **changed)
    with pytest.raises(UserError):
        ShardDataset(folder, "train", verify=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"format": 2, "made_by": "", "config": {}, "splits": []}',
        b'{"format": 2, "made_by": "", "config": {}, "splits": {"train": []}}',
        b'{"format": 2, "made_by": "", "config": {}, "splits": {"train": {"shards": 3}}}',
        b'{"format": 2, "made_by": "", "config": {}, "splits": {"train": {"shards": [3]}}}',
    ],
    ids=range(11),
)
def test_manifests_that_are_none(shards, content):
    folder = shards(raw(*good("a")))
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        ShardDataset(folder, "train")


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop"])
def test_shards_that_are_no_files(shards, kind):
    folder = shards(raw(*good("a")))
    shard = folder / "train-0.tar"
    shard.unlink()
    make = {"fifo": os.mkfifo, "folder": os.mkdir, "loop": lambda p: os.symlink(p, p)}
    make[kind](shard)
    with pytest.raises(UserError, match=r"train-0\.tar"):
        ShardDataset(folder, "train")
