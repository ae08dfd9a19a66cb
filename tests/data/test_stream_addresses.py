"""Where the shards of a stream lie: over the network, which may break, or refused."""

import http.server
import itertools
import threading
from collections import Counter
from dataclasses import replace

import pytest
from torch.utils.data import DataLoader

from data.streams import keys, shard, stream, take
from eramv_lab.data.shards import BrokenSample
from eramv_lab.data.sources import StreamConfig
from eramv_lab.data.stream import StreamDataset
from eramv_lab.errors import UserError


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


def test_addresses_that_are_taken(eight):
    config = StreamConfig(train=f"{eight}/x-00[0-2].tar", test="https://host/x-{000..002}.tar")
    assert not list(config.check())
    assert config.addresses("train") == [f"{eight}/x-00{n}.tar" for n in range(3)]
    assert config.addresses("test") == [f"https://host/x-00{n}.tar" for n in range(3)]


def test_a_shard_in_both_splits_is_refused(tmp_path):
    for number in range(2):
        (tmp_path / f"x-{number}.tar").write_bytes(b"")
    both = StreamConfig(train=f"{tmp_path}/x-{{0..1}}.tar", test=f"{tmp_path}/x-0.tar")
    (problem,) = both.check()
    assert "train and test share" in problem and "x-0.tar" in problem
    (problem,) = replace(both, train=f"{tmp_path}/x-1.tar", val=both.test).check()
    assert "test and val share" in problem
