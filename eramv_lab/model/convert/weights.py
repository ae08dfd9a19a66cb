"""Tensors by name, read from safetensors one at a time and written shard by shard."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eramv_lab.errors import Problem, UserError

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SHARD = "2GB"
"""Largest file that is written; a conversion holds one at a time."""
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    place: str
    """The file that holds it, for messages."""


class Weights(ABC):
    """Tensors by name; nothing is read but what is asked for."""

    entries: dict[str, Entry]

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor of that name."""


class ModelWeights(Weights):
    """Those of a model in memory; what is read is the model's own storage."""

    def __init__(self, model: Any) -> None:
        self.state: dict[str, Tensor] = model.state_dict()
        where = f"the {type(model).__name__}"
        self.entries = {k: Entry(tuple(v.shape), v.dtype, where) for k, v in self.state.items()}

    def read(self, name: str) -> Tensor:
        return self.state[name].detach()


class FolderWeights(Weights):
    """Those of a folder's safetensors, one file or several with an index.

    Raises UserError naming each file that is missing, pickled, damaged or cut off, and each
    tensor that the index names and its file lacks.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        self.entries = {}
        problems: list[Problem] = []
        listed = _listed(folder)
        for name in sorted(set(listed.values())) if listed is not None else [WHOLE]:
            found = _header(folder / name, problems)
            for key, entry in found.items():
                if listed is None or listed.get(key) == name:
                    self.entries[key], self.files[key] = entry, folder / name
            lacking = [k for k, at in (listed or {}).items() if at == name and k not in found]
            if found and lacking:
                message = f"lacks tensors that {INDEX} says it holds: {some(lacking)}"
                problems.append(Problem(message=message, file=str(folder / name)))
        if problems:
            raise UserError(problems)

    def read(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)


def _listed(folder: Path) -> dict[str, str] | None:
    """File of each tensor, where the folder has an index; None where one file holds all.

    Raises UserError where it has neither.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            good = all(isinstance(v, str) and Path(v).name == v for v in listed.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad(index, f"is not an index of shards: {error!r}") from None
        if not good or not listed:
            raise _bad(index, "is not an index of shards: it names no files of its own folder")
        return listed
    if (folder / WHOLE).is_file():
        return None
    pickled = sorted(file for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise _bad(
            pickled[0],
            "is pickled, and reading it would run whatever code it holds; only safetensors are "
            "read (transformers' save_pretrained writes them)",
        )
    raise _bad(folder, f"holds no weights: neither {WHOLE} nor {INDEX}")


def _header(path: Path, problems: list[Problem]) -> dict[str, Entry]:
    """What a file holds, by name; a file that cannot be read is a problem."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Entry] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                part = file.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    kind = part.get_dtype()
                    message = f"{name} is {kind}: a quantised checkpoint cannot be converted"
                    problems.append(Problem(message=message, file=str(path)))
                    return {}
                found[name] = Entry(tuple(part.get_shape()), dtype, str(path))
    except FileNotFoundError:
        problems.append(Problem(message=f"is missing; {INDEX} names it", file=str(path)))
    except (SafetensorError, OSError) as error:
        message = f"is damaged or cut off: {error}"
        problems.append(Problem(message=message, file=str(path)))
    return found


Reader = Callable[[], Tensor]
Planned = Mapping[str, tuple[Tensor, Reader]]
"""By name: a tensor of the shape and dtype on the meta device, and what reads it."""


def write_shards(folder: Path, planned: Planned, shard: str | int = SHARD) -> None:
    """The tensors as safetensors of at most `shard` each, with an index if there are several."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    shapes = {name: shape for name, (shape, _) in planned.items()}
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=shard)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: planned[name][1]().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        del tensors
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / INDEX).write_text(text, encoding="utf-8")


def some(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more


def _bad(path: Path, message: str) -> UserError:
    return UserError(Problem(message=message, file=str(path)))
