"""A small recipe to search around; a real PostgreSQL server, where one is installed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

SMALL = """\
question: Does it read?
model:
  vision: tiny
  language: tiny
  connector: {type: mlp2x_gelu, skip: true}
  anchors: {type: cls_topk, count: 8, cls: true}
  band: {start: 2, length: 2}
  bridge: {type: mlp}
  prompt: image_first
base: none
train:
  steps: 20
  warmup: 2
  validate_every: 5
arms:
  paper: {}
  all: {model.anchors: all, model.band: none}
seeds: [0, 1]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes search.yaml, which extends small.yaml, into the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)

    def put(text: str) -> str:
        Path("search.yaml").write_text("extends: small.yaml\n" + textwrap.dedent(text))
        return "search.yaml"

    return put


def _program(name: str) -> str | None:
    """The newest version's program that Debian keeps off PATH, or the one on it."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: [int(part) for part in path.parts[-3].split(".")],
    )
    return str(found[-1]) if found else shutil.which(name)


def _other_user() -> dict[str, object]:
    """How to start a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """Folder of the socket of a server that only this session knows."""
    initdb, server = _program("initdb"), _program("postgres")
    if initdb is None or server is None:
        pytest.skip("needs PostgreSQL's initdb and postgres")
    if find_spec("psycopg") is None:
        pytest.skip("needs psycopg")
    user = _other_user()
    # not below tmp_path, which another user cannot enter; a socket's path has to be short, too
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        os.chown(folder, user["user"], user["group"])
    data, log = folder / "data", (folder / "log.txt").open("w")
    calm: dict[str, object] = {**user, "cwd": folder, "stdout": log, "stderr": log}
    process = None
    try:
        make = [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*make, "--locale=C", "--no-sync"], check=True, **calm)
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"]
        process = subprocess.Popen([server, "-D", data, "-k", folder, *options], **calm)
        _wait_for(folder, process)
        yield folder
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # cuts clients off; SIGTERM waits for them
            process.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(folder: Path, process: subprocess.Popen) -> None:
    import psycopg

    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="postgres").close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"PostgreSQL does not start: {(folder / 'log.txt').read_text()}")
        time.sleep(0.1)


@pytest.fixture
def postgres(postgres_server: Path) -> Iterator[str]:
    """URL of an empty database."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(host=str(postgres_server), user="postgres", autocommit=True) as there:
        there.execute(f"create database {name}")
        yield f"postgresql+psycopg://postgres@/{name}?host={postgres_server}"
        there.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny sweeps of all tests have their pictures: the first one draws them."""
    return tmp_path_factory.mktemp("tiny") / "data"
