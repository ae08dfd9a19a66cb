"""How far gates stand open: by layer and place, closed at first, and only those that are learnt."""

import math

import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys

from eramv_lab.model import build_model
from eramv_lab.model.gates import openings

BAND = {"start": 1, "length": 2, "at": "before"}


def made(**band):
    spec = spec_of(with_keys(TINY, band=BAND | band))
    return build_model(spec).language_model.layers


def test_each_learnt_gate_is_told_by_its_place_and_closed_at_first():
    layers = made(gate="tanh", ffn="gelu")
    shut = {f"{layer}.band.{part}": 0.0 for layer in (1, 2) for part in ("gate", "ffn.gate")}
    assert openings(layers) == shut
    with torch.no_grad():
        layers[2].band.gate.weight.fill_(-0.5)
    assert openings(layers) == shut | {"2.band.gate": pytest.approx(math.tanh(0.5))}


def test_a_gate_of_channels_is_their_mean():
    layers = made(gate="channel")
    with torch.no_grad():
        layers[1].band.gate.weight[0] = 9.0
    channels = layers[1].band.gate.weight.numel()
    assert openings(layers)["1.band.gate"] == pytest.approx(1 / channels, rel=1e-6)


@pytest.mark.parametrize("gate", ["none", "text"])
def test_what_is_no_number_of_the_model_is_not_told(gate: str):
    assert openings(made(gate=gate, at="parallel")) == {}
