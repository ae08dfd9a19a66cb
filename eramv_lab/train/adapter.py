"""What a fit with LoRA leaves beside its merged model: the adapter that plain `peft` loads.

`PeftModel.from_pretrained(start, folder / "adapter")` is the trained model before the merging. An
adapter is worth something on its start alone, so the start must lie somewhere. Where the fit
started from a model folder with the same slots it is that one; otherwise the untouched start is
made anew from recipe and seed and kept in `start/`, unless it is large: then `write_start` makes
it when it is wanted, and nothing is doubled without a word.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from eramv_lab.errors import LabError, UserError
from eramv_lab.files import made_beside, new_folder
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.recipe.lora import adapted
from eramv_lab.train.files import read_json
from eramv_lab.train.lora import NAME, merge, settings_of
from eramv_lab.train.module import LitArm
from eramv_lab.train.roles import is_difference

ADAPTER, START = "adapter", "start"
KEPT_GIB = 1.0
"""A start that is larger is not kept beside the fit."""
PREFIX = "base_model.model."
"""In front of every name in an adapter's file."""


def finish(lit: LitArm, folder: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """Write the adapter of a trained arm and merge it; what a result says of it, None without one.

    The model of `lit` is a plain one afterwards.
    """
    if not adapted(lit.roles):
        return None
    if plan.get("trained"):
        return _taken_over(lit, Path(plan["trained"]), folder)
    start = _start_folder(lit, folder, plan.get("start") or {})
    if start is None:
        make = f"eramv_lab.train.adapter.write_start({str(folder)!r}, OUT) makes it"
        message = f"{folder / ADAPTER}: its start is large and is not kept; {make}"
        warnings.warn(message, stacklevel=2)
    write_adapter(lit.model, lit.roles, folder / ADAPTER, start)
    merge(lit.model)
    return {"folder": ADAPTER, "start": str(start) if start else None}


def write_adapter(model: Any, roles: object, out: Path, start: Path | None) -> None:
    """The differences and what learns whole, as `PeftModel.save_pretrained` would write them."""
    from peft import LoraConfig

    whole = list(whole_modules(model))
    tensors = {
        PREFIX + name.replace(f".{NAME}.", "."): p.detach()
        for name, p in model.named_parameters()
        if is_difference(name)
    }
    for name in whole:
        state = model.get_submodule(name).state_dict()
        tensors |= {f"{PREFIX}{name}.{key}": value for key, value in state.items()}
    kind = type(model)
    config = LoraConfig(
        **settings_of(roles, model.spec),
        modules_to_save=whole or None,
        base_model_name_or_path=str(start) if start else None,
        auto_mapping={"base_model_class": kind.__name__, "parent_library": kind.__module__},
        inference_mode=True,
    )

    own = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}
    with made_beside(out) as beside:
        config.save_pretrained(str(beside))
        save_file(own, beside / "adapter_model.safetensors", metadata={"format": "pt"})


def whole_modules(model: nn.Module, above: str = "") -> Iterator[str]:
    """The topmost modules of which every parameter learns and none is a difference's.

    Raises LabError where a parameter learns whose module is not whole.
    """
    for name, child in model.named_children():
        path = f"{above}{name}"
        own = [(n, p.requires_grad) for n, p in child.named_parameters(path)]
        learning = [n for n, learns in own if learns and not is_difference(n)]
        if learning and len(learning) == len(own):
            yield path
        elif learning:
            direct = {f"{path}.{n}" for n, _ in child.named_parameters(recurse=False)}
            if stray := sorted(direct & set(learning)):
                raise LabError(f"an adapter cannot hold {stray[0]}: parts of its module are frozen")
            yield from whole_modules(child, f"{path}.")


def write_start(run: Path | str, out: Path | str) -> Path:
    """Make the start of a finished fit anew, as a model folder.

    It is what the fit began with to the last bit: the weights follow from recipe, seed and base.
    Raises LabError without a result, UserError where `out` holds something already.
    """
    result = read_json(Path(run) / "result.json")
    if result is None:
        raise LabError(f"{run} has no result.json, so it is not a finished fit")
    with new_folder(Path(out)) as fresh:
        _save_start(LitArm(result["recipe"], result["seed"], result["start"], whole=True), fresh)
    return Path(out)


def _start_folder(lit: LitArm, folder: Path, begun: Mapping[str, str]) -> Path | None:
    for kind in ("model", "arm"):
        if kind in begun and _same_model(lit, Path(begun[kind])):
            return Path(begun[kind])
    size = sum(p.numel() * p.element_size() for p in lit.model.parameters())
    if size > KEPT_GIB * 2**30:
        return None
    with made_beside(folder / START) as fresh:
        _save_start(lit, fresh)
    return folder / START


def _same_model(lit: LitArm, folder: Path) -> bool:
    """Whether a folder's model has the arm's slots and words, so that it is the start as it is."""
    try:
        other = EramvConfig.from_pretrained(folder)
    except UserError:  # it has components that nobody registered here, so others than the arm
        return False
    own = lit.model.config
    return other.spec == own.spec and other.image_token_id == own.image_token_id


def _save_start(lit: LitArm, out: Path) -> None:
    model = lit.started().to(lit.model.lm_head.weight.dtype)
    model.save_pretrained(out)


def _taken_over(lit: LitArm, trained: Path, folder: Path) -> dict[str, Any] | None:
    """The adapter of the fit whose weights are taken as they are."""
    merge(lit.model)  # differences that are still zero
    result = read_json(trained / "result.json") or {}
    theirs = trained / ADAPTER
    with made_beside(folder / ADAPTER) as beside:
        shutil.copytree(theirs, beside, dirs_exist_ok=True)
    return result.get("adapter")
