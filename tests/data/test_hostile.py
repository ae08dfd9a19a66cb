"""Hostile folders of shards: each refused by its file or sample, nothing run, nothing written."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import BrokenSample
from eramv_lab.errors import UserError

BLOCK = 512
GOOD = {"questions": [{"key": "k", "question": "what?", "answer": "that", "type": "t"}]}


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def png() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def text(plain: object = GOOD) -> bytes:
    return json.dumps(plain).encode()


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def raw(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """The bytes of a tar, each header as it is told, whatever it claims."""
    parts = []
    for info, content in members:
        parts += [info.tobuf(kind), content, bytes(-len(content) % BLOCK)]
    return b"".join(parts) + bytes(2 * BLOCK)


def good(key: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{key}.png", png()), member(f"{key}.json", text())]


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder whose manifest agrees with its one shard, whatever that holds."""

    def write(content: bytes, samples: int = 1, **changed: object) -> Path:
        folder = tmp_path / "inside" / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train-0.tar").write_bytes(content)
        info = {
            "name": "train-0.tar",
            "samples": samples,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "types": {"t": samples},
            **changed,
        }
        entry = {"samples": samples, "questions": samples, "types": {"t": samples}}
        manifest = {
            "format": 2,
            "made_by": "",
            "config": {},
            "splits": {"train": {**entry, "shards": [info]}},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


def everything(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def refused(folder: Path, *names: str) -> None:
    """Opening it is a UserError that names the file; nothing new lies anywhere around."""
    root = folder.parents[1]
    before = everything(root)
    with pytest.raises(UserError) as caught:
        ShardDataset(folder, "train", verify=True)
    for name in ("train-0.tar", *names):
        assert name in str(caught.value)
    assert everything(root) == before


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


def test_the_shard_that_the_others_are_made_from_is_sound(shards):
    dataset = ShardDataset(shards(raw(*good("a"), *good("b")), 2), "train", verify=True)
    assert dataset.keys == ["a", "b"]
    assert [dataset.image(i).shape for i in (0, 1)] == [(4, 4, 3)] * 2


# --- shards


WHOLE = raw(*good("a"), *good("b"))
FIRST = len(raw(*good("a"))) - 2 * BLOCK  # where b.png begins


@pytest.mark.parametrize("cut", [0, 100, 600, FIRST - 300, FIRST + 100, FIRST + BLOCK + 20])
@pytest.mark.parametrize("told", [1, 2])
def test_truncated_with_a_manifest_that_agrees(shards, cut, told):
    refused(shards(WHOLE[:cut], told))


def test_truncated_between_two_members_gives_no_half_sample(shards):
    one_member = BLOCK + len(png()) + -len(png()) % BLOCK
    refused(shards(WHOLE[: FIRST + one_member], 2))  # b.png without b.json
    refused(shards(WHOLE[:FIRST], 2))  # the manifest tells of two


@pytest.mark.parametrize("where", [0, FIRST])
def test_noise_in_place_of_a_header(shards, where):
    noise = bytes(range(1, 256)) * 3
    refused(shards(WHOLE[:where] + noise[:BLOCK] + WHOLE[where + BLOCK :], 2))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(600), gzip.compress(WHOLE)])
def test_no_plain_tar(shards, content):
    refused(shards(content, 2))


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pyd", "a.pth", "a.npy", "a.png.pkl"])
def test_a_pickled_member(shards, tmp_path, name):
    fired = tmp_path / "fired"
    bomb = pickle.dumps(Bomb(fired))
    refused(shards(raw(*good("a"), member(name, bomb))), name)
    assert not fired.exists()


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


NAMES = ("../x", "../../x", "/x", "sub/x", "./../x", "..\\x", "sub\\x", "..", "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["json", "png"])
def test_names_that_leave_the_shard(shards, name, ending):
    content = text() if ending == "json" else png()
    refused(shards(raw(*good("a"), member(f"{name}.{ending}", content)), 2))


def test_a_name_that_leaves_by_an_extended_header(shards):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as made:
        info, data = member("x.json", text(), pax_headers={"path": "../x.json"})
        made.addfile(info, io.BytesIO(data))
    refused(shards(content.getvalue()))
    long = member("../" * 60 + "x.json", text())
    refused(shards(raw(long)))


KINDS = [
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["/etc/hostname", "../secret", "b.png"])
def test_links_devices_and_folders(shards, kind, target):
    link = member("a.png", type=kind, linkname=target)
    refused(shards(raw(link, member("a.json", text()), *good("b")), 2), "a.png")


def test_a_sparse_member(shards):
    # one byte in the tar that says it stands for a terabyte
    info = tarfile.TarInfo("a.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 1
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 1
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    content = bytes(header) + b"x" + bytes(BLOCK - 1)
    refused(shards(content + raw(member("a.json", text()))), "a.png")


@pytest.mark.parametrize("doubled", ["a.json", "a.png", "a.jpg"])
def test_a_member_that_is_there_twice(shards, doubled):
    content = text() if doubled.endswith("json") else png()
    refused(shards(raw(*good("a"), member(doubled, content))), doubled)


def test_a_key_that_comes_again_later(shards):
    refused(shards(raw(*good("a"), *good("b"), *good("a")), 2), "a.")


@pytest.mark.parametrize("size", [10**6, 2**33, 2**40, 2**62, 2**63, 2**80, -1, -BLOCK, -(2**40)])
@pytest.mark.parametrize("name", ["b.json", "b.png"])
def test_a_size_that_lies(shards, size, name):
    lie = member(name, text(), size=size)
    refused(shards(raw(*good("a"), lie, *good("c")), 3))


def test_a_size_that_reaches_into_the_end(shards):
    # more than its content, still within the file: the text then ends in zeros
    lie = member("b.json", text(), size=len(text()) + 100)
    folder = shards(raw(member("a.png", png()), member("a.json", text()), lie), 2)
    dataset = ShardDataset(folder, "train")
    with pytest.raises(BrokenSample):
        dataset.questions(dataset.keys.index("b"))


def test_an_image_alone(shards):
    refused(shards(raw(member("a.png", png()))), "a")


# --- samples


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


# --- manifests


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
