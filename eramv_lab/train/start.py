"""Where an arm starts: the weights of a base, built once, of a released model, of another arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from eramv_lab.data.files import locked
from eramv_lab.data.words import begun_from
from eramv_lab.errors import LabError
from eramv_lab.recipe.base import Base, read_base
from eramv_lab.recipe.connecting import CONNECTORS, begin_anew
from eramv_lab.recipe.released import weight_files
from eramv_lab.train.plan import base_folder
from eramv_lab.train.roles import role_of

if TYPE_CHECKING:
    from eramv_lab.model.modeling import EramvForConditionalGeneration

BASE_PARTS = {"vision": "vision_tower", "connector": "connector", "language": "language_model"}
"""Files of a base by the module of the model that they fill."""
NEW_ROLES = ("bridge", "band")
"""Roles that an arm may have and its start may not."""


def ensure_base(
    recipe: Path | Base, seed: int, root: Path, tell: Callable[..., Any] | None = None
) -> Path:
    """The folder of a base, built first where it is missing; two processes build it once.

    `root` is the data folder; `tell` hears of the progress: (step, steps, text).
    """
    base = recipe if isinstance(recipe, Base) else read_base(recipe)
    folder = base_folder(base, seed, root)
    build_once(base.plain, seed, folder, tell)
    return folder


def build_once(
    recipe: Mapping[str, Any], seed: int, folder: Path, tell: Callable[..., Any] | None = None
) -> None:
    """Build the base of a plain recipe into `folder` unless it is there, under a lock."""
    if is_base(folder):
        return
    with locked(folder):
        if not is_base(folder):
            from eramv_lab.train.base.build import build_base

            build_base(recipe, seed, folder, progress=tell or False)


def is_base(folder: Path) -> bool:
    """Whether a finished base lies there."""
    return (folder / "base.json").is_file()


def load_start(model: EramvForConditionalGeneration, start: Mapping[str, str] | None) -> None:
    """Fill the model from what a plan's `start` names: the folder of a `base`, `arm`, `model`."""
    if folder := begun_from(start):
        load_arm(model, Path(folder))
    elif start:
        load_base(model, Path(start["base"]))


def load_base(model: EramvForConditionalGeneration, folder: Path) -> None:
    """Fill tower, connector and language model; what the arm adds keeps its own start.

    So does a connector that is none of a base (`begin_anew`); a fine connector that could be one
    begins as the base's. What a band begins with as a copy of the language model or the connector
    is made anew. Raises LabError naming every tensor that is missing, left over or of another
    shape.
    """
    wrong: list[str] = []
    found: dict[str, Tensor] = {}
    own, spec = begin_anew(model.spec), model.spec
    for part, path in BASE_PARTS.items():
        tensors = load_file(folder / f"{part}.safetensors")
        head = {name for name in tensors if name.startswith("lm_head.")}
        paths = [path]
        if part == "connector":
            paths = [name for name in CONNECTORS if getattr(spec, name) and name not in own]
        for prefix in paths:
            found |= {n if n in head else f"{prefix}.{n}": t for n, t in tensors.items()}
    wanted = {
        name: tensor
        for name, tensor in _own_tensors(model).items()
        if role_of(name) not in NEW_ROLES and name.partition(".")[0] not in own
    }
    wrong += _wrong(wanted, found)
    wrong += [f"{name} is left over" for name in sorted(found.keys() - wanted.keys())]
    _refuse(wrong, f"the base in {folder}")
    _copy(found, wanted)
    model.reset_band()


def load_arm(model: EramvForConditionalGeneration, folder: Path) -> None:
    """Fill the model with the weights of another arm or model, the parts that this arm has.

    A bridge, band or fine connector that the other one lacks keeps its own start; what begins as a
    copy of the language model or the connector is made anew. Raises LabError naming every other
    tensor that is missing or of another shape, and where the file cannot be read.
    """
    found = _weights(folder)
    wanted = _own_tensors(model)
    fine = "fine_connector."  # new as a whole, or not at all
    new = fine if not any(name.startswith(fine) for name in found) else " "
    required = {
        n: t
        for n, t in wanted.items()
        if n in found or not (role_of(n) in NEW_ROLES or n.startswith(new))
    }
    _refuse(_wrong(required, found), f"the weights in {folder}")
    taken = {n: t for n, t in found.items() if n in required}
    _copy({n: t for n, t in taken.items() if role_of(n) not in NEW_ROLES}, wanted)
    model.reset_band()
    _copy({n: t for n, t in taken.items() if role_of(n) in NEW_ROLES}, wanted)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's folder, in one file or in those that its index names."""
    wrong: list[str] = []
    files = weight_files(folder, wrong)
    _refuse(wrong, f"the weights in {folder}")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise LabError(f"{file} cannot be read as safetensors: {error}") from None
    return found


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by the one name under which each is saved (tied ones once)."""
    named: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        named.setdefault(id(tensor), name)
    kept = set(named.values())
    return {name: tensor.detach() for name, tensor in state.items() if name in kept}


def _wrong(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} is missing"
        if name not in found
        else f"{name} is {list(found[name].shape)}, the arm needs {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name not in found or found[name].shape != tensor.shape
    ]


def _refuse(wrong: Iterable[str], what: str) -> None:
    lines = list(wrong)
    if lines:
        more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
        raise LabError("\n  ".join([f"{what} do not fit the arm:", *lines[:12], *more]))


def _copy(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in found.items():
        wanted[name].copy_(tensor)
