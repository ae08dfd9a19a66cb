"""The files of a released folder: copied by name, free of this machine's paths, known by hash."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError

HASHES = "files.json"
"""Holds the sha256 of every other file of the folder."""
NEEDED = ("config.json", "processor_config.json")
MODEL = (
    "*.safetensors",
    "model.safetensors.index.json",
    *("config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template.*"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)
"""What a model folder may hold, as `save_pretrained` of model and processor names it."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def copy_model(source: Path, target: Path) -> None:
    """Copy model, config and processor, and `adapter/` where there is one, into `target`.

    Nothing else of a fit's folder goes along. Raises UserError with every file that is missing or
    cannot be read whole.
    """
    adapter = source / "adapter"
    needed = [source / name for name in NEEDED]
    needed += [adapter / name for name in ADAPTER] if adapter.is_dir() else []
    problems = [
        Problem(message="is missing, so the folder is no whole model", file=str(file))
        for file in needed
        if not file.is_file()
    ]
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        problems.append(Problem(message="there is no *.safetensors", file=str(source)))
    problems += [p for file in weights for p in _faults(file)]
    if adapter.is_dir() and (adapter / ADAPTER[1]).is_file():
        problems += _faults(adapter / ADAPTER[1])
    if problems:
        raise UserError(problems)
    for file in (file for pattern in MODEL for file in sorted(source.glob(pattern))):
        _copy(file, target / file.name)
    if adapter.is_dir():
        (target / "adapter").mkdir()
        for name in ADAPTER:
            _copy(adapter / name, target / "adapter" / name)


def _faults(file: Path) -> Iterator[Problem]:
    """What is wrong with a safetensors file: its header says how long it must be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            if not list(opened.keys()):
                yield Problem(message="holds no weights", file=str(file))
    except (SafetensorError, OSError) as error:
        yield Problem(message=f"cannot be read as safetensors: {error}", file=str(file))


def _copy(source: Path, target: Path) -> None:
    """Copy bytes, but for a config's paths; readable by all, whatever the fit's file was."""
    if source.name.endswith("config.json"):
        try:
            plain = json.loads(source.read_text(encoding="utf-8"))
        except ValueError as error:
            problem = Problem(message=f"cannot be read as JSON: {error}", file=str(source))
            raise UserError(problem) from None
        bare = without_paths(plain)
        if bare != plain:
            target.write_text(json.dumps(bare, indent=2, ensure_ascii=False) + "\n", "utf-8")
            return
    shutil.copyfile(source, target)


def without_paths(value: Any) -> Any:
    """Plain data in which an absolute path is its last part: it means nothing elsewhere."""
    if isinstance(value, Mapping):
        return {key: without_paths(v) for key, v in value.items()}
    if isinstance(value, list):
        return [without_paths(v) for v in value]
    if isinstance(value, str) and Path(value).is_absolute() and len(Path(value).parts) > 1:
        return Path(value).name
    return value


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` by its name there, but for files.json itself."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / HASHES)
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_hashes(folder: Path) -> None:
    """Write files.json: last of all, for it knows every other file."""
    plain = {"algorithm": "sha256", "files": hashes(folder)}
    (folder / HASHES).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Hold a released folder against its files.json.

    Raises UserError naming every file that is missing, altered, or not told there.
    """
    try:
        told: dict[str, str] = json.loads((folder / HASHES).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"cannot be read: {error}"
        raise UserError(Problem(message=message, file=str(folder / HASHES))) from None
    found = hashes(folder)
    said = {
        **{name: "is missing" for name in told.keys() - found.keys()},
        **{name: "is not told in files.json" for name in found.keys() - told.keys()},
        **{name: "is not what was released" for name in told if found.get(name, told[name]) != told[name]},
    }
    if said:
        raise UserError(
            Problem(message=message, file=str(folder / name)) for name, message in sorted(said.items())
        )
