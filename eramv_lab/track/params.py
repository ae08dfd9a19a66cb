"""A recipe as MLflow shows it: a few flat parameters, short since its column heads are narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLOTS = ("bridge", "sharing", "connector", "reducer", "fine", "vision", "language", "prompt")
TRAIN = ("steps", "images", "lr", "optimizer")


def short_params(
    recipe: Mapping[str, Any], *, anchors: int | None = None
) -> dict[str, str | int | float]:
    """`anchors`, `selector`, `band`, `band_start`, `band_length`, one name per slot, training.

    `recipe` is a resolved arm as plain data. `anchors` is the number of anchor rows, where the
    caller knows it; else what the recipe counts. Keys that say nothing are left out.
    """
    model: Mapping[str, Any] = recipe.get("model", {})
    chosen = model.get("anchors", "none")
    params: dict[str, str | int | float] = {"selector": name_of(chosen)}
    count = chosen.get("count") if isinstance(chosen, Mapping) else None
    rows = anchors if anchors is not None else count
    if rows is not None:
        params["anchors"] = rows
    band = model.get("band", "none")
    layers = list(band.get("layers", [])) if isinstance(band, Mapping) else []
    params["band"] = ",".join(map(str, layers)) or "none"
    params["band_length"] = len(layers)
    if layers:
        params["band_start"] = layers[0]
        params["fusion"] = name_of(band)
    params |= {slot: name_of(model[slot]) for slot in SLOTS if slot in model}
    train: Mapping[str, Any] = recipe.get("train", {})
    params |= {key: train[key] for key in TRAIN if train.get(key) is not None}
    return params


def name_of(slot: Any) -> str:
    """The component's name in a slot; of several, joined by a plus sign."""
    if isinstance(slot, list):
        return "+".join(name_of(part) for part in slot) or "none"
    if isinstance(slot, Mapping):
        return str(slot.get("type", "attend" if "layers" in slot else "none"))
    return "none" if slot is None else str(slot)
