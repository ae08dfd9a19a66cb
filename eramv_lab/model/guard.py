"""A model folder is looked through before it is loaded: whole, ours, readable here, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from packaging.version import Version

from eramv_lab import __version__
from eramv_lab.errors import Problem, UserError

FORMAT = 1
"""Of the folders written here; one that a later version writes otherwise has a higher number."""
NEEDS = "5.23"
"""The oldest transformers that runs the model."""
MODEL_TYPE = "eramv"
SAFE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
SHOWN = 4
"""Names of tensors that a message lists."""


def check_folder(folder: Path, variant: str | None = None) -> None:
    """Look through a model folder: config, versions, weights, generation config.

    Headers and lengths alone are read, whatever the size. Raises UserError with every file that
    is wrong and why. A folder of an adapter alone is its loader's affair.
    """
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        return
    problems: list[Problem] = []
    plain = read_json(folder / "config.json", problems)
    if plain is not None:
        problems += _config_problems(plain, str(folder / "config.json"))
    if (folder / "generation_config.json").exists():
        read_json(folder / "generation_config.json", problems)
    problems += weight_problems(folder, variant)
    if problems:
        raise UserError(problems)


def check_processor(folder: Path) -> None:
    """Look through the JSON files of a processor. Raises UserError with every one that is wrong."""
    problems: list[Problem] = []
    for name in PROCESSOR_FILES:
        if (folder / name).exists() or name == PROCESSOR_FILES[0]:
            read_json(folder / name, problems)
    words = folder / "tokenizer.json"
    if words.exists():
        plain = read_json(words, problems)
        if plain is not None and not {"model", "added_tokens"} <= plain.keys():
            problems.append(_problem(words, "is not a tokenizer"))
    elif not any(folder.glob("tokenizer.model")) and not any(folder.glob("vocab*")):
        problems.append(_problem(words, "is missing"))
    if problems:
        raise UserError(problems)


def check_versions(written_in: Any, written_by: Any, file: str | None = None) -> None:
    """Raise UserError for a newer format than this one, or transformers that is too old."""
    problems = list(_version_problems(written_in, written_by, file))
    if problems:
        raise UserError(problems)


def check_loaded(
    info: Mapping[str, Any], place: str, *, mismatched: bool = False, extra: bool = False
) -> None:
    """Raise UserError where config and tensors do not fit: transformers would draw at random.

    Args:
        info: what `from_pretrained(output_loading_info=True)` tells.
        mismatched: other shapes are wanted so (`ignore_mismatched_sizes`).
        extra: tensors of no use are wanted so (those of a quantised checkpoint).
    """
    found = [
        ("lacks", sorted(info.get("missing_keys") or ()), False),
        ("has, and the config knows no", sorted(info.get("unexpected_keys") or ()), extra),
        (
            "has in another shape",
            sorted(map(_shapes, info.get("mismatched_keys") or ())),
            mismatched,
        ),
    ]
    problems = [
        Problem(message=f"the config does not fit the weights: the file {what} {some(names)}",
                file=place)
        for what, names, wanted in found
        if names and not wanted
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def read_json(file: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """The keys and values of a JSON file; None with `problems` extended where it has none."""
    try:
        plain = json.loads(file.read_bytes())
    except FileNotFoundError:
        problems.append(Problem(message="is missing", file=str(file)))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(message=f"cannot be read as JSON: {error}", file=str(file)))
    else:
        if isinstance(plain, dict):
            return plain
        message = f"should hold keys and values, found {type(plain).__name__}"
        problems.append(Problem(message=message, file=str(file)))
    return None


def read_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name of a safetensors file. Raises UserError where it is none, or cut off."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise UserError(_problem(file, _no_header(start, size, length)))
            header = json.loads(opened.read(length))
    except FileNotFoundError:
        raise UserError(_problem(file, "is missing")) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(_problem(file, f"its header cannot be read: {error}")) from None
    try:
        tensors = {n: t for n, t in header.items() if n != "__metadata__"}
        shapes = {name: tuple(map(int, t["shape"])) for name, t in tensors.items()}
        end = max((int(t["data_offsets"][1]) for t in tensors.values()), default=0)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise UserError(_problem(file, "its header is no safetensors header")) from None
    if size != 8 + length + end:
        message = f"is cut off or damaged: {size} bytes, its header tells of {8 + length + end}"
        raise UserError(_problem(file, message))
    if not shapes:
        raise UserError(_problem(file, "holds no tensors"))
    return shapes


def _problem(file: Path, message: str) -> Problem:
    return Problem(message=message, file=str(file))


def _no_header(start: bytes, size: int, length: int) -> str:
    if start.startswith(b"PK\x03\x04") or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"
    ):
        return "is a pickle under another name; pickles are never read, safetensors alone are"
    if start.startswith(b"version "):
        return "is a pointer of git-lfs and not the file: git lfs pull"
    if size < 8:
        return f"is cut off: {size} bytes"
    return f"is no safetensors file, or cut off: {size} bytes, and a header of {length}"


def _config_problems(plain: Mapping[str, Any], file: str) -> Iterator[Problem]:
    found = plain.get("model_type")
    if found != MODEL_TYPE:
        message = f"model_type is {found!r}, so this is no model of eramv_lab"
        yield Problem(message=message, file=file, allowed=(MODEL_TYPE,))
        return
    yield from _version_problems(plain.get("eramv_format"), plain.get("eramv_lab"), file)
    other = plain.get("transformers_weights")
    if other is not None and not str(other).endswith(".safetensors"):
        yield Problem(message=f"its weights are in {other!r}: pickles are never read", file=file)
    if not isinstance(plain.get("slots"), Mapping):
        yield Problem(message="says nothing of the model: 'slots' is missing", file=file)


def _version_problems(written_in: Any, written_by: Any, file: str | None) -> Iterator[Problem]:
    if Version(transformers.__version__) < Version(NEEDS):
        message = f"transformers {transformers.__version__} is too old for this model"
        yield Problem(message=f"{message}: pip install 'transformers>={NEEDS}'", file=file)
    if written_in is None:  # before formats had numbers
        return
    if not isinstance(written_in, int) or isinstance(written_in, bool) or written_in < 1:
        message = f"eramv_format is {written_in!r}, expected a whole number"
        yield Problem(message=message, file=file)
    elif written_in > FORMAT:
        by = f"eramv_lab {written_by}" if written_by else "a newer eramv_lab"
        message = (
            f"was written by {by} in format {written_in}; eramv_lab {__version__} reads up to "
            f"{FORMAT}: pip install 'eramv-lab>={written_by or __version__}'"
        )
        yield Problem(message=message, file=file)


def weight_problems(folder: Path, variant: str | None = None) -> Iterator[Problem]:
    """What is wrong with the safetensors of a folder: missing, pickled, damaged, cut off."""
    single, index = folder / SAFE, folder / INDEX
    if variant:
        single = folder / f"model.{variant}.safetensors"
        index = folder / f"model.safetensors.index.{variant}.json"
    if single.exists():
        yield from _file_problems(single)
    elif index.exists():
        yield from _index_problems(index)
    else:
        pickles = sorted(f.name for f in folder.glob("*") if f.suffix in PICKLES)
        message = "is missing"
        if pickles:
            message += f"; {', '.join(pickles)} are pickles, which are never read"
        yield _problem(single, message)


def _file_problems(file: Path) -> Iterator[Problem]:
    try:
        read_header(file)
    except UserError as error:
        yield from error.problems


def _index_problems(index: Path) -> Iterator[Problem]:
    problems: list[Problem] = []
    plain = read_json(index, problems)
    yield from problems
    if plain is None:
        return
    where = plain.get("weight_map")
    if not isinstance(where, Mapping) or not where or {*map(type, where.values())} != {str}:
        yield _problem(index, "has no weight_map of tensors to files")
        return
    for name in sorted(set(where.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            yield _problem(index, f"names {name!r}, which is no safetensors file beside it")
            continue
        try:
            held = read_header(index.parent / name)
        except UserError as error:
            yield from error.problems
            continue
        lost = sorted(key for key, shard in where.items() if shard == name and key not in held)
        if lost:
            yield _problem(index.parent / name, f"lacks {some(lost)}, which {index.name} promises")


def _shapes(found: Any) -> str:
    """`name [file's shape], the config's is [shape]`."""
    if isinstance(found, str):
        return found
    name, here, wanted = found
    return f"{name} {list(here)}, the config's is {list(wanted)}"


def some(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
