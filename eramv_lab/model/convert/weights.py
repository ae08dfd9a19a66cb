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
from eramv_lab.model.convert.names import USELESS, our_name
from eramv_lab.model.guard import INDEX, SAFE, weight_problems

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

    Raises UserError naming each file that is missing, pickled, damaged or cut off, and tensors
    that are quantised.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        problems = list(weight_problems(folder))
        if problems:
            raise UserError(problems)
        listed = None
        if not (folder / SAFE).exists():
            listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        self.files: dict[str, Path] = {}
        self.entries = {}
        for place in sorted({folder / name for name in (listed or {"": SAFE}).values()}):
            with safe_open(place, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no mapping
                    part = file.get_slice(name)
                    if listed is not None and listed.get(name) != place.name:
                        continue
                    dtype = DTYPES.get(part.get_dtype())
                    if dtype is None and USELESS.search(our_name(name)):
                        continue
                    if dtype is None:
                        message = f"{name} is {part.get_dtype()}: no weight that can be converted"
                        problems.append(Problem(message=message, file=str(place)))
                        break
                    self.entries[name] = Entry(tuple(part.get_shape()), dtype, str(place))
                    self.files[name] = place
        if problems:
            raise UserError(problems)

    def read(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)


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
