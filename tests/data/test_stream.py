"""Streams: every sample of an epoch once, orders that a seed gives, bad shards by name, no harm."""

import http.server
import io
import itertools
import json
import os
import pickle
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from eramv_lab.data.held_out import held_out
from eramv_lab.data.local import local_folder, local_folders
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import BrokenSample
from eramv_lab.data.sources import StreamConfig
from eramv_lab.data.stream import StreamDataset, Streamed
from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe.schema import parse_data

LINK = object()


def jpeg(value: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(content, "JPEG")
    return content.getvalue()


def own(key: str, **changed: object) -> bytes:
    asked = {"key": f"{key}-0", "question": "what?", "answer": "that", "type": "t", **changed}
    return json.dumps({"questions": [asked]}).encode()


def llava(*values: str, **more: object) -> bytes:
    turns = [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]
    return json.dumps({"id": "x", "conversations": turns, **more}).encode()


def tar(members: list[tuple[str, bytes | object]], kind: bytes = tarfile.SYMTYPE) -> bytes:
    """A tar of (name, content); content LINK makes a link to /etc/hostname."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = kind, "/etc/hostname"
                made.addfile(info)
    return content.getvalue()


def shard(*keys: str) -> bytes:
    return tar([(f"{k}.{e}", c) for k in keys for e, c in (("jpg", jpeg()), ("json", own(k)))])


def stream(addresses: str | Path, **given: object) -> StreamDataset:
    buffer = given.pop("shuffle", 4)
    config = StreamConfig(train=str(addresses), test=str(addresses), shuffle=buffer)
    return StreamDataset(config, "train", waits=(), **{"seed": 3, **given})


def take(dataset: StreamDataset, count: int) -> list[Streamed | BrokenSample]:
    return list(itertools.islice(dataset, count))


def keys(items: list) -> list[str]:
    return [item.key for item in items]


def only(folder: Path, content: bytes, count: int = 2) -> tuple[list[Streamed], list[BrokenSample]]:
    """Usable and broken samples of one bad shard, behind a good one that keeps the stream going."""
    (folder / "bad.tar").write_bytes(content)
    (folder / "good.tar").write_bytes(shard("good"))
    items = take(stream(folder / "{good,bad}.tar"), count)
    usable = [i for i in items if isinstance(i, Streamed) and i.key != "good"]
    return usable, [i for i in items if isinstance(i, BrokenSample)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of five samples each."""
    made = tmp_path_factory.mktemp("shards")
    for number in range(8):
        content = shard(*(f"s{number}-{i}" for i in range(5)))
        (made / f"x-{number:03d}.tar").write_bytes(content)
    return made


EVERY = {f"s{number}-{i}" for number in range(8) for i in range(5)}


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of `files`; with `breaks`, the first so many answers stop half way."""

    files: dict[str, bytes] = {}
    breaks: dict[str, int] = {}
    ranges: bool = False
    gets: Counter[str] = Counter()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content, wanted = self.files.get(self.path), self.headers.get("Range")
        if content is None:
            self.send_error(404)
            return
        if self.ranges and wanted:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes" if self.ranges else "none")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.gets[self.path] += 1
            broken = self.gets[self.path] <= self.breaks.get(self.path, 0)
            self.wfile.write(content[: len(content) // 2] if broken else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    """A server of one test: (address, its handler)."""
    handler = type("One", (Handler,), {"files": {}, "breaks": {}, "gets": Counter()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


# --- order


def test_an_epoch_has_every_sample_once_and_the_next_one_another_order(folder):
    items = take(stream(folder / "*.tar"), 80)
    first, second = keys(items[:40]), keys(items[40:])
    assert set(first) == set(second) == EVERY
    assert first != second and first != sorted(first)
    assert items[0].image_HWC.shape == (8, 8, 3) and items[0].image_HWC.dtype == np.uint8
    assert items[0].questions[0].key == f"{items[0].key}-0"


def test_same_seed_same_order(folder):
    order = keys(take(stream(folder / "*.tar"), 60))
    assert keys(take(stream(folder / "x-{000..007}.tar"), 60)) == order
    assert keys(take(stream(folder / "*.tar", seed=4), 60)) != order


def test_start_epoch_and_a_second_iteration_go_on_with_another_epoch(folder):
    once = stream(folder / "*.tar")
    both = keys(take(once, 40)), keys(take(once, 40))
    assert both[0] != both[1] and set(both[1]) == EVERY
    assert keys(take(stream(folder / "*.tar", start_epoch=1), 40)) == both[1]


def test_probe_takes_nothing_away(folder):
    probed = stream(folder / "*.tar")
    probed.probe()
    assert keys(take(probed, 40)) == keys(take(stream(folder / "*.tar"), 40))


def test_ranks_share_the_shards(folder):
    parts = [keys(take(stream(folder / "*.tar", rank=r, ranks=2), 20)) for r in (0, 1)]
    assert set(parts[0]) | set(parts[1]) == EVERY and not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("ranks", [3, 9])
def test_uneven_and_too_few_shards(folder, ranks):
    # three ranks: 3, 3 and 2 shards; nine: more than shards, so each reads all of them
    parts = [stream(folder / "*.tar", rank=r, ranks=ranks) for r in range(ranks)]
    counts = [15, 15, 10] if ranks == 3 else [40] * 9
    seen = [keys(take(part, count)) for part, count in zip(parts, counts, strict=True)]
    assert Counter(itertools.chain(*seen)) == {key: 1 if ranks == 3 else 9 for key in EVERY}
    assert len({tuple(part) for part in seen}) == ranks


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_in_a_loader(folder, workers):
    def all_keys(rank: int) -> list[str]:
        dataset = stream(folder / "*.tar", rank=rank, ranks=2)
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


# --- over the network


def test_shards_over_http_also_in_workers_after_the_parent(server):
    address, handler = server
    handler.files |= {f"/x-{n}.tar": shard(f"{n}a", f"{n}b") for n in range(4)}
    dataset = stream(address + "/x-{0..3}.tar")
    assert len(set(keys(take(dataset, 8)))) == 8
    loader = DataLoader(
        stream(address + "/x-{0..3}.tar").batches(2),
        batch_size=None,
        collate_fn=lambda batch: keys(batch.samples),
        num_workers=2,
    )
    assert len(set(itertools.chain(*itertools.islice(loader, 4)))) == 8


@pytest.mark.parametrize("ranges", [False, True])
def test_a_connection_that_breaks(server, ranges):
    address, handler = server
    handler.ranges = ranges
    handler.files |= {"/a.tar": shard(*"abcdefgh"), "/b.tar": shard("z")}
    handler.breaks["/a.tar"] = 1 if ranges else 100
    items = take(stream(address + "/{a,b}.tar", shuffle=1), 9)
    if ranges:  # read on where it broke
        assert set(keys(items)) == set("abcdefghz")
        return
    broken = [item for item in items if isinstance(item, BrokenSample)]
    assert f"{address}/a.tar" in keys(broken)
    assert "z" in keys(items)  # on with the next one


def test_a_shard_that_does_not_open_is_named_and_passed_over(server, monkeypatch):
    address, handler = server
    waited = []
    monkeypatch.setattr("eramv_lab.data.remote.time.sleep", waited.append)
    config = StreamConfig(train=address + "/{a,b}.tar?sig=secret", test="x.tar")
    handler.files["/b.tar?sig=secret"] = shard("z")
    items = take(StreamDataset(config, "train", seed=3), 2)
    assert set(keys(items)) == {f"{address}/a.tar", "z"} and not waited
    text = str(next(i for i in items if isinstance(i, BrokenSample)))
    assert "404" in text and "secret" not in text


def test_a_host_that_is_away_is_tried_again(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("eramv_lab.data.remote.time.sleep", waited.append)
    (tmp_path / "good.tar").write_bytes(shard("z"))
    config = StreamConfig(train=f"{{http://127.0.0.1:9/a.tar,{tmp_path}/good.tar}}", test="x.tar")
    items = take(StreamDataset(config, "train", seed=3, waits=(1, 2)), 2)
    assert waited == [1, 2] and "http://127.0.0.1:9/a.tar" in keys(items)


# --- samples


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


# --- hostile shards


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


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


# --- nothing usable


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


# --- the recipe's part


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("pipe:touch fired", "commands are never run"),
        ("{pipe:touch,pipe:cat} fired", "commands are never run"),
        ("simplecache::https://host/x.tar", "not opened"),
        ("https://host/x.tar::file:///x.tar", "not opened"),
        ("ssh://host/x.tar", "not opened"),
        ("", "not opened"),
        ("https://host/*.tar", "a pattern is for local files"),
        ("https://host/{0..9", "Unbalanced"),
        ("https://host/{0..99999999999}.tar", "more than 100,000"),
        ("https://host/{1..999}{1..999}.tar", "more than 100,000"),
        ("nowhere/{000..002}.tar", "no file nowhere/000.tar"),
        ("nowhere/*.tar", "no file"),
    ],
)
def test_addresses_that_are_refused(address, reason):
    config = StreamConfig(train=address, test=__file__)
    (text,) = config.check()
    assert reason in text and text.startswith("train is")
    with pytest.raises(UserError, match="train is"):
        StreamDataset(config, "train", seed=0)


def test_addresses_that_are_taken(folder):
    config = StreamConfig(train=f"{folder}/x-00[0-2].tar", test="https://host/x-{000..002}.tar")
    assert not list(config.check())
    assert config.addresses("train") == [f"{folder}/x-00{n}.tar" for n in range(3)]
    assert config.addresses("test") == [f"https://host/x-00{n}.tar" for n in range(3)]


def test_it_says_that_it_is_not_exactly_resumable(folder):
    text = stream(folder / "*.tar").describe()
    assert "8 shards" in text and "not exactly resumable" in text


# --- held-out samples


def test_held_out_samples_are_copied_once(folder, tmp_path, monkeypatch):
    config = StreamConfig(train="x", test=f"{folder}/*.tar", test_samples=7)
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


def test_a_damaged_copy_is_made_again(folder, tmp_path):
    config = StreamConfig(train="x", test=f"{folder}/*.tar", test_samples=2)
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


def test_a_shard_in_both_splits_is_refused(tmp_path):
    for number in range(2):
        (tmp_path / f"x-{number}.tar").write_bytes(b"")
    both = StreamConfig(train=f"{tmp_path}/x-{{0..1}}.tar", test=f"{tmp_path}/x-0.tar")
    (problem,) = both.check()
    assert "train and test share" in problem and "x-0.tar" in problem
    (problem,) = replace(both, train=f"{tmp_path}/x-1.tar", val=both.test).check()
    assert "test and val share" in problem


def test_val_of_a_stream_is_copied_beside_its_test(folder, tmp_path):
    plain = {"train": f"{folder}/x-000.tar", "test": f"{folder}/x-001.tar", "test_samples": 3}
    data, problems = [], []
    for more in ({}, {"val": f"{folder}/x-002.tar"}):
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
