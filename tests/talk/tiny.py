"""A tiny loud model of the made world's words, ready to be asked."""

from typing import Any

from laws.probes import perturb, spec_of
from laws.settings import TINY, with_keys

from eramv_lab.data.processor import world_processor
from eramv_lab.model import build_model
from eramv_lab.talk import Talker


def talker_of(**changes: Any) -> Talker:
    """A loud tiny model with its processor; `changes` are keys of its section."""
    spec = spec_of(with_keys(TINY, **{"language.vocab": 70, **changes}))
    model = build_model(spec)
    perturb(model)
    return Talker(model, world_processor(spec))
