"""The reader: text alone, damage in one sample and in a whole shard, no file but its own."""

import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.pictures import BAD, GOOD, saved, scene
from eramv_lab.data import reader
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import (
    Asked,
    BrokenSample,
    Manifest,
    Packed,
    ShardInfo,
    write_shard,
)
from eramv_lab.errors import UserError
from eramv_lab.recipe.base import sha256_of

ASKED = [Asked("a-0", "what is it", "red", "color"), Asked("a-1", "and now", "blue", "color", True)]
TEXT = json.dumps({"questions": [a._asdict() for a in ASKED]}).encode()


def written(folder: Path, *samples: Packed) -> ShardDataset:
    shard = write_shard(folder / "train-000000.tar", samples)
    Manifest(config={}, splits={"train": [shard]}).save(folder)
    return ShardDataset(folder, "train", verify=True)


def foreign(folder: Path, members: dict[str, bytes], cut: int | None = None) -> None:
    """A shard that some other program wrote, with a manifest that agrees with it."""
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(path.read_bytes()[:cut])
    sizes = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    samples = len({name.partition(".")[0] for name in members})
    Manifest(
        config={}, splits={"train": [ShardInfo(name=path.name, samples=samples, **sizes)]}
    ).save(folder)


def test_every_kind_of_image_and_text_alone(tmp_path):
    dataset = written(
        tmp_path,
        Packed("a", ASKED, ("webp", GOOD["lossless.webp"])),
        Packed("b", ASKED[:1], None),
        Packed("c", ASKED, ("jpg", GOOD["grey.jpg"]), [{"shape": "circle"}]),
    )
    assert [dataset.has_image(i) for i in range(3)] == [True, False, True]
    assert np.array_equal(dataset.image(0), scene())
    assert dataset.questions(0) == ASKED and dataset.questions(1) == ASKED[:1]
    assert dataset[1].image_HWC is None and dataset[1].questions == (ASKED[0],)
    assert dataset[2].objects == ({"shape": "circle"},) and dataset[0].objects == ()
    assert dataset.manifest.counts("train")["images"] == 2
    with pytest.raises(BrokenSample, match="b: no image"):
        dataset.image(1)


def test_text_bytes_tell_how_long_the_text_is(tmp_path):
    dataset = written(tmp_path, Packed("a", ASKED, None), Packed("b", ASKED[:1], None))
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert dataset.text_bytes.tolist() == [member.size for member in tar]


def test_what_was_left_out_comes_back_with_the_manifest(tmp_path):
    dataset = written(tmp_path, Packed("a", ASKED, None))
    skipped = [{"id": "7", "file": "x.jpg", "reason": "not an image"}]
    replace(dataset.manifest, skipped=skipped).save(tmp_path)
    assert Manifest.load(tmp_path).skipped == skipped


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[1, 2]", "a JSON list, expected an object"),
        (b"{", "bad text"),
        (b"\xff\xfe", "bad text"),
        (b"[" * 100_000, "bad text"),
        (b"{}", "expected a list of questions"),
        (b'{"questions": []}', "expected a list of questions"),
        (b'{"questions": [7]}', "a question needs key, question, answer, type"),
        (b'{"questions": [{"key": "a"}]}', "a question needs"),
        (TEXT.replace(b'"red"', b"[1]"), "another kind"),
        (TEXT.replace(b"true", b"1"), "another kind"),
        (TEXT.replace(b'"color"', b'"color", "more": 1'), "nothing else"),
        (TEXT[:-1] + b', "objects": [3]}', "objects"),
    ],
)
def test_a_text_of_another_form_breaks_its_sample_only(tmp_path, text, reason):
    foreign(tmp_path, {"a.png": saved(), "a.json": text, "b.png": saved(), "b.json": TEXT})
    dataset = ShardDataset(tmp_path, "train")
    for call in (dataset.questions, dataset.__getitem__):
        with pytest.raises(BrokenSample, match=reason) as error:
            call(0)
        assert error.value.key == "a"
    assert dataset.questions(1) == ASKED and dataset.image(0).shape == dataset.image(1).shape
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.key, again.reason) == (error.value.key, error.value.reason)


@pytest.mark.parametrize("name", BAD)
def test_an_image_that_is_bad_breaks_its_sample_only(tmp_path, name):
    content, reason = BAD[name]
    foreign(tmp_path, {"a.jpg": content, "a.json": TEXT, "b.png": saved(), "b.json": TEXT})
    dataset = ShardDataset(tmp_path, "train")
    with pytest.raises(BrokenSample, match=f"a: {reason}"):
        dataset.image(0)
    assert dataset.questions(0) == ASKED and np.array_equal(dataset.image(1), scene())


def test_a_shard_that_shrinks_while_it_is_read(tmp_path):
    dataset = written(tmp_path, Packed("a", ASKED, None), Packed("b", ASKED, None))
    os.truncate(tmp_path / "train-000000.tar", 600)
    with pytest.raises(BrokenSample, match="cut off"):
        dataset.questions(1)


def whole() -> dict[str, bytes]:
    return {"a.png": saved(), "a.json": TEXT, "b.png": saved(), "b.json": TEXT}


def test_a_tar_that_is_cut_off_is_refused_wherever_it_is_cut(tmp_path):
    # a manifest with the size of what is left, so that the tar itself must tell; its last sample
    # ends with the eighth block
    for cut in range(0, 8 * 512 + 1, 256):
        foreign(tmp_path, whole(), cut=cut)
        with pytest.raises(UserError, match=r"train-000000\.tar: cut off"):
            ShardDataset(tmp_path, "train")
    foreign(tmp_path, whole(), cut=9 * 512)
    assert len(ShardDataset(tmp_path, "train")) == 2


def test_bytes_that_are_no_tar_are_refused(tmp_path):
    foreign(tmp_path, whole())
    path = tmp_path / "train-000000.tar"
    content = bytearray(path.read_bytes())
    for place in (0, 124, 150):
        harmed = bytearray(content)
        harmed[place] = ord("-")
        path.write_bytes(harmed)
        with pytest.raises(UserError, match=r"train-000000\.tar: no tar header at byte 0"):
            ShardDataset(tmp_path, "train")


@pytest.mark.parametrize(
    "kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "DIRTYPE", "FIFOTYPE"]
)
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    foreign(tmp_path, whole())
    path = tmp_path / "train-000000.tar"
    member = tarfile.TarInfo("c.png")
    member.type, member.linkname = getattr(tarfile, kind), "/etc/passwd"
    with tarfile.open(path, "a") as tar:
        tar.addfile(member)
    manifest = Manifest.load(tmp_path)
    size = path.stat().st_size
    shards = [replace(manifest.splits["train"][0], bytes=size, sha256=sha256_of(path))]
    replace(manifest, splits={"train": shards}).save(tmp_path)
    with pytest.raises(UserError, match=r"train-000000\.tar: member 'c\.png/?' refused"):
        ShardDataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"a.jpg": saved()}, r"member 'a\.jpg': there is one such already"),
        ({"c.png": saved()}, r"sample 'c' has no json member"),
        ({"x" * 90 + "/" + "y" * 60 + ".png": saved()}, "refused"),
        ({"x" * 300 + ".png": saved()}, "refused"),
    ],
)
def test_samples_that_do_not_add_up(tmp_path, more, message):
    foreign(tmp_path, whole() | more)
    with pytest.raises(UserError, match=message):
        ShardDataset(tmp_path, "train")


def test_few_shards_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FILES", 2)
    shards = [
        write_shard(tmp_path / f"train-{n}.tar", [Packed(str(n), ASKED, None)]) for n in range(5)
    ]
    Manifest(config={}, splits={"train": shards}).save(tmp_path)
    dataset = ShardDataset(tmp_path, "train")
    for _ in range(2):
        assert [dataset.questions(i) for i in range(5)] == [ASKED] * 5
    assert len(dataset._files) == 2
    assert pickle.loads(pickle.dumps(dataset)).questions(3) == ASKED
