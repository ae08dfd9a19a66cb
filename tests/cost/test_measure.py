"""Latency and memory of a prefill: there, in their units, and nothing left behind."""

import pytest
import torch

from eramv_lab.cost.measure import measure
from eramv_lab.model import build_model

from .shapes import tiny


def test_a_measurement_on_the_cpu():
    model = build_model(tiny()).train()
    one, eight = (measure(model, text_tokens=16, batch=n, runs=3) for n in (1, 8))
    weights = sum(p.nbytes for p in model.parameters()) / 2**20
    assert one.device == "cpu" and one.dtype == "float32"
    assert (one.batch, eight.batch, one.runs) == (1, 8, 3)
    assert 0 < one.latency_ms < eight.latency_ms and one.latency_spread_ms >= 0
    assert weights < one.peak_mib < eight.peak_mib
    assert measure(model, text_tokens=16, runs=1).peak_mib == one.peak_mib
    assert model.training


def test_half_the_bytes_in_bf16():
    model = build_model(tiny())
    full = measure(model, text_tokens=16, runs=1)
    half = measure(model.to(torch.bfloat16), text_tokens=16, runs=1)
    assert half.dtype == "bfloat16"
    assert half.peak_mib < 0.75 * full.peak_mib


def test_no_runs_no_measurement():
    with pytest.raises(ValueError, match="runs 0"):
        measure(build_model(tiny()), runs=0)
