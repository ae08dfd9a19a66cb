"""Held-out samples of a stream are copied once, whole, and in an order of their own."""

import tarfile

import pytest

from data.streams import jpeg, llava, own, tar
from eramv_lab.data.held_out import held_out
from eramv_lab.data.local import local_folder, local_folders
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.sources import StreamConfig
from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe.schema import parse_data


def test_held_out_samples_are_copied_once(eight, tmp_path, monkeypatch):
    config = StreamConfig(train="x", test=f"{eight}/*.tar", test_samples=7)
    made = held_out(config, tmp_path)
    dataset = ShardDataset(made, "test")
    asked = [dataset.questions(i)[0].key for i in range(len(dataset))]
    wanted = [f"s{n // 5}-{n % 5}-0" for n in range(7)]
    assert asked == [f"{n:06d}-{key}" for n, key in enumerate(wanted)]
    assert dataset.image(0).shape == (8, 8, 3)
    monkeypatch.setattr("eramv_lab.data.held_out.groups", lambda *_: pytest.fail("copied again"))
    assert held_out(config, tmp_path) == made


def test_held_out_samples_keep_their_bytes_and_texts_alone(tmp_path):
    members = [("a/b.jpeg", jpeg(7)), ("a/b.json", llava("<image>what?", "a", "so?", "b"))]
    (tmp_path / "x.tar").write_bytes(tar([*members, ("c.json", llava("hello", "hi"))]))
    config = StreamConfig(train="x", test=f"{tmp_path}/x.tar")
    made = held_out(config, tmp_path / "data")
    with tarfile.open(next(made.glob("*.tar"))) as copied:
        assert copied.extractfile("000000.jpg").read() == jpeg(7)
        assert copied.getnames() == ["000000.jpg", "000000.json", "000001.json"]
    dataset = ShardDataset(made, "test")
    assert [dataset.has_image(i) for i in (0, 1)] == [True, False]
    assert [q.follows for q in dataset.questions(0)] == [False, True]


def test_a_damaged_copy_is_made_again(eight, tmp_path):
    config = StreamConfig(train="x", test=f"{eight}/*.tar", test_samples=2)
    (shard_file,) = held_out(config, tmp_path).glob("*.tar")
    whole = shard_file.read_bytes()
    shard_file.write_bytes(whole[:-1] + b"x")
    held_out(config, tmp_path)
    assert shard_file.read_bytes() == whole


def test_held_out_samples_leave_out_broken_ones_but_no_shard(tmp_path):
    good = tar([("a.json", b"[]"), ("b.jpg", jpeg()), ("b.json", own("b"))])
    (tmp_path / "x-0.tar").write_bytes(good)
    (tmp_path / "x-1.tar").write_bytes(b"")
    config = StreamConfig(train="x", test=f"{tmp_path}/x-0.tar")
    dataset = ShardDataset(held_out(config, tmp_path / "data"), "test")
    assert len(dataset) == 1
    (skipped,) = dataset.manifest.skipped
    assert skipped["id"] == "a" and skipped["file"] == str(tmp_path / "x-0.tar")
    assert "must be an object" in skipped["reason"]
    config = StreamConfig(train="x", test=f"{tmp_path}/x-*.tar")
    with pytest.raises(LabError, match=r"x-1\.tar: the shard cannot be read"):
        held_out(config, tmp_path / "other", waits=())
    assert not [p for p in (tmp_path / "other").rglob("*") if p.suffix in (".tar", ".json")]


def test_val_of_a_stream_is_copied_beside_its_test(eight, tmp_path):
    plain = {"train": f"{eight}/x-000.tar", "test": f"{eight}/x-001.tar", "test_samples": 3}
    data, problems = [], []
    for more in ({}, {"val": f"{eight}/x-002.tar"}):
        section = {"type": "stream", "stream": plain | more, "folder": str(tmp_path)}
        data.append(parse_data(section, problems))
    assert not problems
    without, there = data
    assert local_folders(without) == local_folders(there)[:1]
    with pytest.raises(UserError, match=r"no split 'val': give data\.stream\.val"):
        local_folder(without, "val")
    places = zip(local_folders(there), ("test", "val"), strict=True)
    test, val = (ShardDataset(place, split) for place, split in places)
    assert len(test) == len(val) == 3
    asked = [{part.questions(i)[0].key[7:] for i in range(3)} for part in (test, val)]
    assert not asked[0] & asked[1]
    assert local_folder(there, "val") == val.folder
