"""A tiny model folder, and pictures to ask it about."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eramv_lab.talk import Talker
from tests.talk.tiny import talker_of


@pytest.fixture(scope="session")
def talker() -> Talker:
    return talker_of()


@pytest.fixture(scope="session")
def folder(talker: Talker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, saved."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    talker.model.save_pretrained(place)
    talker.processor.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four PNGs, `0.png` to `3.png`."""
    place = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place
