"""A small made world, drawn once for all tests of this folder."""

from pathlib import Path

import pytest

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
