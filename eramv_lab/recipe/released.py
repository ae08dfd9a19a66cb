"""A released model that arms start from: found and checked by its files, nothing of it loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.base import base_path, digest, sha256_of
from eramv_lab.recipe.nodes import Mark

KIND = "eramv"
"""The `model_type` of our models."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = ("vision", "language")
"""Slots that an arm must share with the model that it starts from."""
KEY = "base.model"
TOKENIZER = ("tokenizer*", "vocab*")
PROCESSOR = (*TOKENIZER, "merges.txt", "*token*.json", "*processor_config.json", "chat_template*")
"""Files of which one is there where there is a tokenizer, and all that decide words and pixels."""
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is fetched of a model on the hub."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A folder that `EramvForConditionalGeneration.from_pretrained` reads, checked."""

    path: str
    """As the working directory sees it; or the hub id."""
    folder: str
    """Where it lies on this machine."""
    hash: str
    """8 hex digits of the bytes of its weights."""
    parts: Mapping[str, Any]
    """`vision` and `language` of its config."""
    words: str = ""
    """8 hex digits of the files of its processor; empty where it has no tokenizer."""


def read_released(written: str, mark: Mark) -> Released:
    """The model that `base.model` means: beside the file that says so, else from here, else the
    hub's.

    Raises UserError with everything that is wrong with the folder.
    """
    place = base_path(written, mark)
    local = place.is_dir()
    folder = place if local else fetched(written, KEY)
    wrong: list[str] = []
    parts = _parts(folder, wrong)
    files = weight_files(folder, wrong)
    if wrong:
        raise UserError(Problem(message=f"{written}: {text}", key=KEY) for text in wrong)
    return Released(
        path=Path(os.path.relpath(place)).as_posix() if local else written,
        folder=os.path.relpath(folder) if local else str(folder),
        hash=digest([_sha256(file, *_state(file)) for file in files]),
        parts=parts,
        words=_words(folder),
    )


def fetched(name: str, key: str | None = None) -> Path:
    """The folder of a hub id: configs, processor and safetensors, as far as they are there.

    Raises UserError where it is none, or the hub does not give it.
    """
    owner, slash, rest = name.partition("/")
    if not slash or "/" in rest or owner in ("", ".", "..", "~") or Path(owner).is_dir():
        raise UserError(Problem(message=f"no folder {name}", key=key))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except Exception as error:  # the hub's client raises many kinds
        first = str(error).strip().split("\n", 1)[0]
        message = f"{name} is neither a folder here nor a model that the hub gave: {first}"
        raise UserError(Problem(message=message, key=key)) from None


def _words(folder: Path) -> str:
    """Digest of the files that say how the model reads; empty where there is no tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER):
        return ""
    files = {f for pattern in PROCESSOR for f in folder.glob(pattern) if f.is_file()}
    return digest({f.name: _sha256(f, *_state(f)) for f in sorted(files)})


def _parts(folder: Path, wrong: list[str]) -> dict[str, Any]:
    """The slots that an arm must share, as config.json has them."""
    config = _json(folder / "config.json", wrong)
    if config is None:
        return {}
    kind, slots = config.get("model_type"), config.get("slots")
    if kind != KIND:
        more = "; `export --from-llava` makes one of it" if kind == "llava" else ""
        wrong.append(f"config.json is of model_type {kind!r}, a start is of {KIND!r}{more}")
        return {}
    if not isinstance(slots, Mapping) or not all(isinstance(slots.get(s), Mapping) for s in PARTS):
        wrong.append(f"config.json does not say what fills the slots {' and '.join(PARTS)}")
        return {}
    return {slot: dict(slots[slot]) for slot in PARTS}


def weight_files(folder: Path, wrong: list[str]) -> list[Path]:
    """The files of the weights, in order of name; `wrong` is extended where they are not there."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        pickled = sorted(f.name for kind in ("*.bin", "*.pt", "*.pth") for f in folder.glob(kind))
        more = f", and {', '.join(pickled)} is never unpickled" if pickled else ""
        wrong.append(f"no {WEIGHTS}{more}")
        return []
    index = _json(folder / INDEX, wrong)
    if index is None:
        return []
    listed = index.get("weight_map")
    if not isinstance(listed, Mapping) or not listed:
        wrong.append(f"{INDEX} lists no weights")
        return []
    files = [folder / name for name in sorted(set(map(str, listed.values())))]
    for file in files:
        if file.parent != folder or file.suffix != ".safetensors" or not file.is_file():
            wrong.append(f"{INDEX} names {os.path.relpath(file, folder)}, which is not there")
    return files


def _json(file: Path, wrong: list[str]) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        wrong.append(f"no {file.name}")
        return None
    except (OSError, ValueError, RecursionError) as error:
        wrong.append(f"{file.name} cannot be read as JSON: {error}")
        return None
    if not isinstance(found, dict):
        wrong.append(f"{file.name} is not an object")
        return None
    return found


def _state(file: Path) -> tuple[int, int]:
    """What changes when the file does."""
    told = file.stat()
    return told.st_size, told.st_mtime_ns


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """Hash of a file's bytes; read once while `size` and time of change stay the same."""
    return sha256_of(file)
