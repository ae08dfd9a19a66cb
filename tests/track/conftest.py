"""A fresh MLflow store for each test, copied from one that was migrated once."""

import shutil
from pathlib import Path

import pytest

from eramv_lab.track.client import client_of
from eramv_lab.track.store import DATABASE, init_store, store_uri


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    client_of(store_uri(folder)).search_experiments()
    return folder / DATABASE


@pytest.fixture
def runs(template: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(template, folder / DATABASE)
    return folder


@pytest.fixture
def uri(runs: Path) -> str:
    return init_store(runs)
