"""Samples of a stream: bad ones are left out by name, hostile shards do no harm."""

import itertools
import pickle
import tarfile
from pathlib import Path

import pytest

from data.hostile import Bomb
from data.streams import LINK, jpeg, keys, llava, own, shard, stream, take, tar
from eramv_lab.data.shards import BrokenSample
from eramv_lab.data.stream import Streamed
from eramv_lab.errors import LabError


def only(folder: Path, content: bytes, count: int = 2) -> tuple[list[Streamed], list[BrokenSample]]:
    """Usable and broken samples of one bad shard, behind a good one that keeps the stream going."""
    (folder / "bad.tar").write_bytes(content)
    (folder / "good.tar").write_bytes(shard("good"))
    items = take(stream(folder / "{good,bad}.tar"), count)
    usable = [i for i in items if isinstance(i, Streamed) and i.key != "good"]
    return usable, [i for i in items if isinstance(i, BrokenSample)]


def test_llava_conversations(tmp_path):
    sample = llava("<image>\nwhat?", "a cat", "where?", "here", image="a.jpg")
    text = llava("hello", "hi")
    content = tar([("a.JPG", jpeg()), ("a.json", sample), ("b.json", text)])
    (tmp_path / "x.tar").write_bytes(content)
    found = {item.key: item for item in take(stream(tmp_path / "x.tar"), 2)}
    first, second = found["a"].questions
    assert (first.question, first.answer, first.follows) == ("what?", "a cat", False)
    assert (second.question, second.answer, second.follows) == ("where?", "here", True)
    assert found["b"].image_HWC is None and found["b"].questions[0].question == "hello"


@pytest.mark.parametrize(
    ("json_member", "reason"),
    [
        (b"[1, 2]", "is a list, must be an object"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"caption": "x"}', "has the keys 'caption', wanted: questions or conversations"),
        (b'{"questions": {}}', "questions must be a list"),
        (b'{"questions": ["x"]}', "questions.0 must have texts"),
        (own("a", answer=3), "questions.0 must have texts"),
        (own("a", follows="yes"), "follows must be true or false"),
        (b'{"conversations": "x"}', "no turns"),
        (llava("only a question"), "no answer"),
        (llava("<image>", "x", "<image>", "y"), "stands more than once"),
        (llava("a", "b").replace(b"gpt", b"human"), "turns out of order"),
    ],
)
def test_bad_json_is_one_broken_sample(tmp_path, json_member, reason):
    content = tar([("a.jpg", jpeg()), ("a.json", json_member), ("b.json", own("b"))])
    usable, broken = only(tmp_path, content, 3)
    assert keys(usable) == ["b"] and keys(broken) == ["a"]
    assert reason in broken[0].reason and str(tmp_path / "bad.tar") in broken[0].reason


def test_bad_images_are_broken_samples(tmp_path):
    content = tar(
        [
            ("a.jpg", b"no picture"),
            ("a.json", own("a")),
            ("b.jpg", jpeg()),
            ("b.png", jpeg()),
            ("b.json", own("b")),
            ("c.json", llava("<image>what?", "that")),
            ("d.jpg", jpeg()),
            ("d.txt", b"a caption"),
        ]
    )
    usable, broken = only(tmp_path, content, 5)
    reasons = {item.key: item.reason for item in broken}
    assert not usable and reasons.keys() == set("abcd")
    assert "not an image" in reasons["a"] and "more than one image" in reasons["b"]
    assert "<image> and no image" in reasons["c"] and "no json member" in reasons["d"]


@pytest.mark.parametrize("ending", ["pkl", "pickle", "pyd", "pth", "x.pkl"])
def test_pickles_are_refused_and_not_run(tmp_path, ending):
    fired = tmp_path / "fired"
    bomb = pickle.dumps(Bomb(fired))
    members = [("a.jpg", jpeg()), ("a.json", own("a")), (f"a.{ending}", bomb)]
    usable, broken = only(tmp_path, tar(members))
    assert not usable and keys(broken) == ["a"] and f"a.{ending}" in broken[0].reason
    assert not fired.exists()
    pickle.loads(bomb)
    assert fired.exists()  # it would have gone off


def test_a_pickle_called_json_is_no_json(tmp_path):
    fired = tmp_path / "fired"
    usable, broken = only(tmp_path, tar([("a.json", pickle.dumps(Bomb(fired)))]))
    assert not usable and "no JSON" in broken[0].reason and not fired.exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..\\x"])
def test_names_that_leave_are_refused(tmp_path, name):
    members = [(f"{name}.jpg", jpeg()), (f"{name}.json", own("x")), ("b.json", own("b"))]
    usable, broken = only(tmp_path, tar(members), 3)
    assert keys(usable) == ["b"] and len(broken) == 1
    assert "leaves the shard" in broken[0].reason


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    # without its image, it would be a sample of text alone
    usable, broken = only(tmp_path, tar([("a.jpg", LINK), ("a.json", own("a"))], kind))
    assert not usable and keys(broken) == ["a"] and "not a plain file" in broken[0].reason


def test_a_member_twice_is_refused(tmp_path):
    members = [("a.jpg", jpeg()), ("a.json", own("a")), ("a.json", own("a", answer="other"))]
    usable, broken = only(tmp_path, tar(members))
    assert not usable and "twice" in broken[0].reason


def test_members_of_other_endings_are_not_read(tmp_path):
    members = [("a.__key__", b"b"), ("a.jpg", jpeg()), ("a.json", own("a")), ("a.cls", b"1")]
    members += [("a.cls", b"2"), ("README", b"no ending")]
    usable, broken = only(tmp_path, tar(members))
    assert keys(usable) == ["a"] and not broken


@pytest.mark.parametrize("size", [2**20, 2**40, 2**62, -512, -1024])
def test_a_size_that_lies(tmp_path, size):
    content = bytearray(tar([("a.json", own("a")), ("b.json", own("b"))]))
    info = tarfile.TarInfo("b.json")
    info.size = size
    content[1024:1536] = info.tobuf(tarfile.GNU_FORMAT)
    usable, broken = only(tmp_path, bytes(content), 4)
    assert keys(usable) == ["a"]
    assert set(keys(broken)) == {"b", str(tmp_path / "bad.tar")}


@pytest.mark.parametrize("cut", [700, 1024, 1600, 2048, 2300])
def test_a_truncated_tar_is_named_and_gives_no_half_sample(tmp_path, cut):
    # members at 0, 1536 (json) and 2560; whatever is cut, `a` never becomes text alone
    members = [("a.json", llava("what?", "that")), ("a.jpg", jpeg()), ("b.json", own("b"))]
    (tmp_path / "good.tar").write_bytes(shard("good"))
    (tmp_path / "bad.tar").write_bytes(tar(members)[:cut])
    items = take(stream(tmp_path / "{good,bad}.tar", shuffle=1), 3)
    assert str(tmp_path / "bad.tar") in keys([i for i in items if isinstance(i, BrokenSample)])
    assert {i.key for i in items if isinstance(i, Streamed)} == {"good"}


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(100)])
def test_what_is_no_tar_is_named(tmp_path, content):
    usable, broken = only(tmp_path, content)
    assert not usable and keys(broken) == [str(tmp_path / "bad.tar")]


def test_the_first_thousand_without_a_usable_one(tmp_path):
    members = [(f"{n:04d}.{e}", b"3") for n in range(1200) for e in ("jpg", "cls")]
    (tmp_path / "x.tar").write_bytes(tar(members))
    with pytest.raises(LabError) as caught:
        take(stream(tmp_path / "x.tar"), 1001)
    text = str(caught.value)
    assert "no usable sample among 1,000" in text and caught.value.exit_code == 1
    assert "keys found: jpg (1000), cls (1000)" in text
    assert "keys wanted: json" in text and "no json member" in text


def test_fewer_samples_and_none_usable(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar([("a.txt", b"x")]))
    (tmp_path / "y.tar").write_bytes(b"")
    for ranks in (1, 2):
        with pytest.raises(LabError, match=r"keys found: txt"):
            take(stream(tmp_path / "*.tar", ranks=ranks), 100)
    with pytest.raises(LabError, match=r"keys found: txt"):
        stream(tmp_path / "*.tar").probe()


def test_a_reader_with_a_bad_part_takes_the_parts_of_others(tmp_path):
    (tmp_path / "x.tar").write_bytes(shard("a"))
    (tmp_path / "y.tar").write_bytes(b"")
    for rank in (0, 1):
        dataset = stream(tmp_path / "*.tar", rank=rank, ranks=2)
        assert "a" in keys(take(dataset, 3))


def test_batches_tell_what_was_broken(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar([("a.json", own("a")), ("b.json", b"[]")]))
    batches = itertools.islice(stream(tmp_path / "x.tar").batches(1), 20)
    samples, broken = zip(*((keys(b.samples), keys(b.broken)) for b in batches), strict=True)
    assert set(itertools.chain(*samples)) == {"a"} and set(itertools.chain(*broken)) == {"b"}
