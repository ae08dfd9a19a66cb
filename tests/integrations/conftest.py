"""A model folder that answers in the made world's words, and pictures to ask it about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from laws.probes import perturb, spec_of
from laws.settings import TINY, with_keys
from PIL import Image

from eramv_lab.data.processor import world_processor
from eramv_lab.data.world.vocabulary import EOS, IDS, WORDS
from eramv_lab.model import build_model


def picture(seed: int, side: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, drawn so that images and words change the answer."""
    made = tmp_path_factory.mktemp("model")
    spec = spec_of(with_keys(TINY, **{"language.vocab": len(WORDS)}))
    model = build_model(spec, seed=0)
    perturb(model)
    with torch.no_grad():
        model.language_model.embed_tokens.weight[IDS[EOS]] *= 0.5
    model.save_pretrained(made)
    world_processor(spec).save_pretrained(made)
    return made
