"""Shards: same config, same bytes; hashes that hold; nothing read that is not data."""

import io
import json
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eramv_lab.data import make
from eramv_lab.data.make import make_data
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import BrokenSample, Manifest, ShardInfo
from eramv_lab.data.world.questions import questions_of
from eramv_lab.data.world.scene import make_scene
from eramv_lab.errors import UserError
from eramv_lab.recipe.base import sha256_of


def test_same_config_same_bytes_whatever_the_processes(world, tmp_path, folder):
    again = make_data(world, tmp_path, processes=2)
    assert again.name == folder.name
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in folder.iterdir())


def test_another_seed_is_another_folder(world, tmp_path, folder):
    other = make_data(replace(world, seed=8, train=10), tmp_path, processes=1)
    assert other.name != folder.name
    assert ShardDataset(other, "train").hash != ShardDataset(folder, "train").hash


def test_how_many_of_val_are_drawn_changes_no_other_split(world, tmp_path, folder):
    more = make_data(replace(world, val=9), tmp_path, processes=1)
    same = [ShardDataset(f, split).hash for f in (more, folder) for split in ("train", "test")]
    assert same[:2] == same[2:]
    assert ShardDataset(more, "val").keys[:6] == ShardDataset(folder, "val").keys


def test_manifest_tells_what_the_shards_hold(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["seed"] == 7
    for split, scenes in (("train", 40), ("test", 10), ("val", 6)):
        told = manifest["splits"][split]
        assert told["samples"] == scenes == len(ShardDataset(folder, split))
        assert told["questions"] == 4 * scenes == sum(told["types"].values())
        for shard in told["shards"]:
            assert sha256_of(folder / shard["name"]) == shard["sha256"]


def test_samples_are_what_was_drawn(world, folder):
    dataset = ShardDataset(folder, "train", verify=True)
    for index in (0, 39):
        sample = dataset[index]
        scene = make_scene(world, "train", index)
        assert np.array_equal(sample.image_HWC, scene.image)
        assert len(sample.objects) == len(scene.objects)
        asked = [(q.text, q.answer, q.type) for q in questions_of(world, "train", index)]
        assert [(q.question, q.answer, q.type) for q in sample.questions] == asked
    keys = [q.key for i in range(len(dataset)) for q in dataset.questions(i)]
    assert len(set(keys)) == len(keys) == 160


def test_webdataset_reads_the_shards(folder):
    import webdataset

    # read as a stream, bytes as they are: nothing is decoded by the library
    shard = next(folder.glob("train-*.tar"))
    stream = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    samples = list(stream)
    assert [s["__key__"] for s in samples] == ShardDataset(folder, "train").keys
    assert {"png", "json"} <= set(samples[0])


def test_finished_data_is_not_drawn_again(world, root, folder, monkeypatch):
    monkeypatch.setattr(make, "_draw", lambda *_: pytest.fail("drawn again"))
    assert make_data(world, root) == folder


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_damaged_data_is_refused_by_the_reader_and_mended_by_make(
    world, tmp_path, folder, harm, caplog
):
    copy = tmp_path / "world" / folder.name
    shutil.copytree(folder, copy)
    shard = copy / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 255
    if harm == "flip":
        shard.chmod(0o644)
        shard.write_bytes(content)
    elif harm == "cut":
        shard.write_bytes(content[:-5000])
    elif harm == "remove":
        shard.unlink()
    else:
        (copy / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest|missing"):
        ShardDataset(copy, "train", verify=True)
    assert make_data(world, tmp_path, processes=1) == copy
    assert "damaged" in caplog.text
    assert sha256_of(shard) == sha256_of(folder / shard.name)
    assert not [
        p for p in copy.parent.iterdir() if p.name.startswith(f".{copy.name}.") and p.is_dir()
    ]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "name",
    ["a.pkl", "a.pyd", "a.png.pickle", "../a.png", "/etc/a.png", "sub/a.png", ".png", "a.pth", "a"],
)
def test_members_that_are_not_data_are_refused(tmp_path, name):
    write_foreign(tmp_path, {"ok.png": b"", "ok.json": b"{}", name: pickle.dumps(Bomb())})
    with pytest.raises(UserError, match="refused") as error:
        ShardDataset(tmp_path, "train")
    assert name in str(error.value)


def test_links_are_refused(tmp_path):
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write_foreign(tmp_path, {}, link)
    with pytest.raises(UserError, match="refused"):
        ShardDataset(tmp_path, "train")


def test_bytes_that_are_no_image_are_not_opened_as_something_else(tmp_path):
    write_foreign(tmp_path, {"a.png": pickle.dumps(Bomb()), "a.json": b'{"questions":[]}'})
    with pytest.raises(BrokenSample, match="a: not an image"):
        ShardDataset(tmp_path, "train").image(0)


def test_a_split_that_is_not_there(folder):
    with pytest.raises(UserError, match="did you mean: train"):
        ShardDataset(folder, "trian")


def test_senseless_worlds_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="cells is 0"):
        make_data(replace(world, cells=0), tmp_path)
    assert not list(tmp_path.iterdir())


def write_foreign(folder: Path, members: dict[str, bytes], *infos: tarfile.TarInfo) -> None:
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in infos:
            tar.addfile(info)
    shard = ShardInfo(name=path.name, samples=1, bytes=path.stat().st_size, sha256=sha256_of(path))
    Manifest(config={}, splits={"train": [shard]}).save(folder)


def test_captions_keep_their_references(world, tmp_path):
    mixed = replace(world, mix={"caption": 1.0, "digit": 1.0}, train=3, test=1, val=1)
    dataset = ShardDataset(make_data(mixed, tmp_path, processes=1), "train")
    asked = [one.references for n in range(3) for one in questions_of(mixed, "train", n)]
    assert [one.references for n in range(3) for one in dataset.questions(n)] == asked
    assert any(asked)
