"""Hostile shards: each refused by its file, nothing run, nothing written."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import pytest

from data.hostile import BLOCK, Bomb, good, member, png, raw, text
from eramv_lab.data.reader import ShardDataset
from eramv_lab.errors import UserError


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


def test_the_shard_that_the_others_are_made_from_is_sound(shards):
    dataset = ShardDataset(shards(raw(*good("a"), *good("b")), 2), "train", verify=True)
    assert dataset.keys == ["a", "b"]
    assert [dataset.image(i).shape for i in (0, 1)] == [(4, 4, 3)] * 2


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


def test_an_image_alone(shards):
    refused(shards(raw(member("a.png", png()))), "a")
