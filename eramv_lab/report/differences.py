"""What differs between arms: the recipe keys with more than one value, by short names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def differing(flat: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Short key to its value in each flattened recipe, "–" where it has none; only what differs.

    A slot reads as its component's name (`bridge: mlp`), a band as its layers (`2-3`); a setting of
    a component is listed only where two arms have that setting and it differs.
    """
    keys = dict.fromkeys(key for one in flat for key in one)
    unlike = [
        key
        for key in keys
        if len({one[key] for one in flat if key in one}) > 1
        or ("." not in key and any(key not in one for one in flat))
    ]
    short = short_names(unlike)
    return {short[key]: [one.get(key, "–") for one in flat] for key in unlike}


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and printable values; `model.` and `.type` are left out of the names."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name == "model" and isinstance(value, Mapping):
            flat |= flatten(value)
        elif key == "type" and prefix and not isinstance(recipe.get("layers"), list):
            flat[prefix] = str(value)
        elif key == "layers" and prefix and _is_layers(value):
            flat[prefix] = ranges(value)
        elif isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = plain(value)
    return flat


def _is_layers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(layer, int) for layer in value)


def plain(value: Any) -> str:
    """A value as a recipe would write it, on one line."""
    if isinstance(value, Mapping):
        parts = [f"{k}={plain(v)}" for k, v in value.items() if k != "type"]
        inside = " ".join(parts)
        return f"{value['type']}({inside})" if "type" in value else inside
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or "none"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def ranges(layers: Sequence[int]) -> str:
    """Layers as runs: [2, 3, 4, 7] is "2-4, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "none"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last two parts, or more where another key ends in the same."""
    names: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        for i in range(max(0, len(parts) - 2), -1, -1):
            name = ".".join(parts[i:])
            if i == 0 or not any(k != key and f".{k}".endswith(f".{name}") for k in keys):
                names[key] = name
                break
    return names
