"""Short names that say what a trial tries: `s2 n3 a16`, then whatever else is searched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.sweep.domains import Choices, Domain, word

SAID = ("model.band.start", "model.band.length", "model.band.layers", "model.anchors.count")
"""Keys that the first words say already."""
BANDED = ("model.bridge", "model.sharing", "model.fine")
"""Keys that say nothing where there is no band."""
LONGEST = 12


def label_of(
    spec: ModelSpec, values: Mapping[str, Any] | None, domains: Mapping[str, Domain]
) -> str:
    """Start and length of the band (or its layers), anchors without CLS, choices, numbers."""
    words = [*_band(spec.band), f"a{anchors_of(spec)}"]
    for key, domain in domains.items():
        if key in SAID or values is None or (key.startswith(BANDED) and not spec.band):
            continue
        value = values[key]
        if isinstance(domain, Choices):
            words.append(short_words(key, domain)[domain.values.index(value)])
        else:
            words.append(f"{key.rpartition('.')[2]}{value:g}")
    return " ".join(words)


def short_words(key: str, domain: Choices) -> tuple[str, ...]:
    """A short word for each choice, all of them different."""
    last = key.rpartition(".")[2]
    cut = [_short(last, value) for value in domain.values]
    return tuple(f"{said}#{i}" if cut.count(said) > 1 else said for i, said in enumerate(cut))


def _short(last: str, value: Any) -> str:
    if value in (None, "none") or value is False:
        return f"no-{last}"
    if value is True:
        return last
    if isinstance(value, int | float):
        return f"{last}{value:g}"
    parts = value.values() if isinstance(value, Mapping) else value
    said = value if isinstance(value, str) else "-".join(map(word, parts))
    return re.sub(r"\s+", "-", said)[:LONGEST].rstrip("-")


def folder_of(label: str) -> str:
    """The label as the name of an arm, which is the head of its folder's name."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", label.replace(" ", "_")).strip("-_")
    return (plain or "trial")[:60]


def anchors_of(spec: ModelSpec) -> int:
    """Anchor rows, CLS apart."""
    if spec.anchors is None:
        return 0
    return spec.dims().anchors - int(spec.anchors.takes_cls)


def _band(band: tuple[int, ...]) -> list[str]:
    if not band:
        return ["n0"]
    if band == tuple(range(band[0], band[-1] + 1)):
        return [f"s{band[0]}", f"n{len(band)}"]
    return ["b" + "-".join(map(str, band))]
