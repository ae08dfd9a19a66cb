"""Plain transformers configs from a folder or the hub, read as JSON, nothing else loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError

LEFT_OUT = ("architectures", "auto_map", "transformers_version", "_name_or_path")
LEFT_OUT += ("torch_dtype", "dtype")  # a model here starts in float32; a caller asks for another
"""Keys of a config.json that say nothing of a model's shape."""
SLOTS = {"text_config": "language", "vision_config": "vision"}
"""The slot of a recipe that each section of a config.json fills."""


def config_of(path: str | None, config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The plain config of a component: the one given, or that of `path`.

    Where a checkpoint holds several models, `section` (`text_config`, `vision_config`) is taken.
    Raises UserError where neither, or both, or an unreadable one is given.
    """
    slot = f"model.{SLOTS[section]}"
    if bool(path) == bool(config):
        message = "give either path (a folder or hub id) or config (plain sizes)"
        raise UserError(Problem(message=message, key=slot))
    try:
        plain = read_config(place_of(path)) if path else config
    except UserError as error:
        raise UserError(replace(p, key=f"{slot}.path") for p in error.problems) from None
    part = plain.get(section) or plain
    return {key: value for key, value in part.items() if key not in LEFT_OUT}


def place_of(path: str) -> str:
    """The folder that `path` names, `~` filled in; or the hub id that it is."""
    folder = Path(path).expanduser()
    return str(folder) if folder.exists() else path


def shape_of(plain: Mapping[str, Any]) -> Any:
    """The transformers config of a plain one. Raises UserError where a value is not of its type."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    rest = {key: value for key, value in plain.items() if key not in ("model_type", *LEFT_OUT)}
    try:
        return AutoConfig.for_model(plain["model_type"], **rest)
    except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"transformers refuses the {plain['model_type']} config: {text}") from None


@cache
def read_config(path: str) -> Mapping[str, Any]:
    """The config.json of a folder or hub id. Raises UserError where there is none."""
    file = Path(path) / "config.json"
    if not file.is_file():
        file = _download(path)
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            Problem(message=f"cannot be read as JSON: {error}", file=str(file))
        ) from None
    if not isinstance(plain, dict) or "model_type" not in plain:
        raise UserError(Problem(message="is not a transformers config", file=str(file)))
    return plain


def _download(name: str) -> Path:
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists():
        raise UserError(f"{name} is not a folder with a config.json")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{name} is neither a folder here nor a model that the hub gave: {first}"
        ) from None
