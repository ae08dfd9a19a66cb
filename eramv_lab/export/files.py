"""The files of a released folder: copied by name, free of this machine's paths, known by hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.base import sha256_of

HASHES = "files.json"
"""Holds the sha256 of every other file of the folder."""
MODEL = (
    *("config.json", "generation_config.json"),
    *("model*.safetensors", "model.safetensors.index.json"),
    *("processor_config.json", "preprocessor_config.json", "chat_template.*"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)
"""What a model folder may hold, as `save_pretrained` of model and processor names it."""
ADAPTER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
"""The folder of an adapter beside its merged model, and its two files."""
START = "start"
"""The folder of the model that an adapter goes onto, where it is no other's."""


def copy_model(source: Path, target: Path) -> None:
    """Copy model, configs and processor, and `adapter/` and `start/` where they are, into `target`.

    Nothing else of a fit's folder goes along. Raises UserError with every file that is missing or
    broken, before anything is copied.
    """
    from eramv_lab.model.guard import check_folder, check_processor, read_header, read_json

    def check_config() -> None:
        problems: list[Problem] = []
        if read_json(adapter / CONFIG, problems) is None:
            raise UserError(problems)

    adapter, start = source / ADAPTER, source / START
    looks: list[Callable[[], Any]] = [lambda: check_folder(source), lambda: check_processor(source)]
    if adapter.is_dir():
        looks += [check_config, lambda: read_header(adapter / WEIGHTS)]
    if start.is_dir():
        looks.append(lambda: check_folder(start))
    _all_of(looks)
    for folder in (source, *([start] if start.is_dir() else [])):
        below = target / folder.relative_to(source)
        below.mkdir(exist_ok=True)
        for file in (file for pattern in MODEL for file in sorted(folder.glob(pattern))):
            _copy(file, below / file.name)
    if adapter.is_dir():
        (target / ADAPTER).mkdir()
        for name in (CONFIG, WEIGHTS):
            _copy(adapter / name, target / ADAPTER / name)


def _all_of(looks: list[Callable[[], Any]]) -> None:
    """Every one of `looks`; raises UserError with the problems of all of them."""
    problems: list[Problem] = []
    for look in looks:
        try:
            look()
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def _copy(source: Path, target: Path) -> None:
    """Copy bytes, but for the paths in a config; readable by all, whatever the fit's file was."""
    if source.name.endswith("config.json"):
        plain = json.loads(source.read_bytes())
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
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def write_hashes(folder: Path) -> None:
    """Write files.json: last of all, for it knows every other file."""
    plain = {"algorithm": "sha256", "files": hashes(folder)}
    (folder / HASHES).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Hold a released folder against its files.json.

    Raises UserError naming every file that is missing, altered, or not told there.
    """
    try:
        told: dict[str, str] = dict(json.loads((folder / HASHES).read_bytes())["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = Problem(message=f"cannot be read: {error}", file=str(folder / HASHES))
        raise UserError(problem) from None
    found, problems = hashes(folder), list[Problem]()
    for name in sorted(told.keys() | found.keys()):
        if name not in found:
            message = "is missing"
        elif name not in told:
            message = f"is not told in {HASHES}"
        elif told[name] != found[name]:
            message = "is not what was released"
        else:
            continue
        problems.append(Problem(message=message, file=str(folder / name)))
    if problems:
        raise UserError(problems)
