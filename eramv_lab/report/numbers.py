"""Numbers as people read them: three digits, one unit for a column, never shortened away."""

from __future__ import annotations

import math
from collections.abc import Iterable

FLOPS = {"PFLOPs": 1e15, "TFLOPs": 1e12, "GFLOPs": 1e9, "MFLOPs": 1e6, "kFLOPs": 1e3}
COUNTS = {"B": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
SMALLEST = 0.5  # of a unit, in the column's smallest number
MEASURES: dict[str, tuple[str, dict[str, float], float]] = {
    "prefill_tflops": ("prefill", FLOPS, 1e12),
    "train_pflops": ("training", FLOPS, 1e15),
    "parameters": ("parameters", COUNTS, 1.0),
    "trainable": ("trainable", COUNTS, 1.0),
    "kv_mib": ("KV", {"MiB": 1.0}, 1.0),
    "peak_mib": ("peak", {"MiB": 1.0}, 1.0),
    "latency_ms": ("latency", {"ms": 1.0}, 1.0),
    "gate": ("|tanh g|", {"": 1.0}, 1.0),
}
"""Columns of a row that have a unit: their heading, its units, and the size that is stored."""


def unit_of(values: Iterable[float | None], units: dict[str, float]) -> tuple[str, float]:
    """The largest unit (name, size) in which every value above zero is at least a half."""
    above = [v for v in values if v]
    for name, size in units.items():
        if above and min(above) >= SMALLEST * size:
            return name, size
    return list(units.items())[-1]


def name_of(metric: str) -> str:
    """A metric in words, without its unit."""
    return MEASURES[metric][0] if metric in MEASURES else metric.replace("_", " ")


def heading(metric: str, values: Iterable[float | None]) -> tuple[str, float]:
    """The heading of a metric with the unit that suits all `values`, and what they are to be
    multiplied by.
    """
    name, units, size = MEASURES.get(metric, (name_of(metric), {"": 1.0}, 1.0))
    unit, scale = unit_of([None if v is None else v * size for v in values], units)
    return f"{name} {unit}".strip(), size / scale


def duration(seconds: float | None) -> str:
    """A time as people say it: 41 s, 15 min, 2 h 05 min."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{digits(seconds, 2)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def digits(value: float | None, count: int = 3) -> str:
    """`count` significant digits, whole numbers in full, "–" for none."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = count - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, places)}f}".replace(",", " ")


def share(value: float | None, signed: bool = False) -> str:
    """An accuracy or a difference of two, to three places."""
    if value is None:
        return "–"
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", "−")


def probability(p: float | None) -> str:
    """A p-value; below .001 only that."""
    if p is None:
        return "–"
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
