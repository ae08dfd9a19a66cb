"""Made once for all tests of this folder: a small made world, an import of pictures, shards."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data.imports import fill, run
from data.streams import shard
from eramv_lab.data.make import make_data
from eramv_lab.data.world.config import WorldConfig


@pytest.fixture(scope="session")
def world() -> WorldConfig:
    return WorldConfig(train=40, test=10, val=6, questions=4, seed=7)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def folder(world: WorldConfig, root: Path) -> Path:
    return make_data(world, root, processes=1)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ of every kind, good and bad, and all.json that names them all."""
    return fill(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def imported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(source, tmp_path_factory.mktemp("out") / "own", processes=1)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of five samples each."""
    made = tmp_path_factory.mktemp("shards")
    for number in range(8):
        content = shard(*(f"s{number}-{i}" for i in range(5)))
        (made / f"x-{number:03d}.tar").write_bytes(content)
    return made


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
