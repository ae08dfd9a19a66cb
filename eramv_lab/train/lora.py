"""LoRA by `peft`: low-rank differences put into the model in place, and merged into it at the end.

The differences are injected; the model is not wrapped. Its names, its forward, `generate` and the
groups of FSDP stay as they are, what learns is still "the parameters that require a gradient" for
optimizer and checkpoint, and nothing is there twice (peft's wrapper keeps a frozen twin of every
module that learns whole). What plain peft needs is only a folder of its form: `train.adapter`.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.model.parts import seeded
from eramv_lab.recipe.lora import PARTS, adapted, bits_of, differences, layers_of
from eramv_lab.train.roles import HALVES, is_difference

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

NAME = "default"
"""What peft calls the only adapter of a model."""


def expected(roles: object, spec: ModelSpec) -> list[str]:
    """Names of the parameters that the differences have, in order."""
    return [
        f"{PARTS[role]}.{one.matrix.path.format(layer)}.{half}.{NAME}.weight"
        for (role, layer, _), one in differences(roles, spec).items()
        for half in HALVES
    ]


def settings_of(roles: object, spec: ModelSpec) -> dict[str, Any]:
    """Keywords of peft's LoraConfig; the pattern matches whole names, so nothing beside them."""
    patterns: dict[str, str] = {}
    chosen, all_of = adapted(roles), differences(roles, spec)
    for role, lora in chosen.items():
        layers = "|".join(map(str, layers_of(lora, role, spec)))
        paths = dict.fromkeys(one.matrix.path for (r, *_), one in all_of.items() if r == role)
        ends = "|".join(re.escape(p).replace(r"\{\}", f"({layers})") for p in paths)
        patterns[role] = rf"{PARTS[role]}\.({ends})"
    first, *others = chosen
    return {
        "r": chosen[first].rank,
        "lora_alpha": chosen[first].alpha,
        "lora_dropout": chosen[first].dropout,
        "target_modules": "|".join(patterns.values()),
        "rank_pattern": {patterns[role]: chosen[role].rank for role in others},
        "alpha_pattern": {patterns[role]: chosen[role].alpha for role in others},
    }


def add_differences(model: nn.Module, roles: object, spec: ModelSpec, seed: int) -> None:
    """Put the differences of `roles` into the model; each A from a stream of its own, B at zero.

    Raises LabError where what came to be is not exactly what was asked for.
    """
    if not adapted(roles):
        return
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    with seeded(seed, "lora"):
        inject_adapter_in_model(LoraConfig(**settings_of(roles, spec)), model, NAME)
    del model.peft_config  # it is for peft's own wrapper; saving is not its business here
    shape_alone = next(model.parameters()).device.type == "meta"
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not shape_alone:
            with seeded(seed, f"lora.{name}"):
                module.reset_lora_parameters(NAME, init_lora_weights=True)
    found = {name for name, _ in model.named_parameters() if is_difference(name)}
    if wrong := sorted(found ^ set(expected(roles, spec))):
        raise LabError(f"other matrices than asked for would learn: {', '.join(wrong[:6])}")


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every difference to its matrix and take it out: the model is as it was before."""
    from peft.tuners.lora import LoraLayer

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name, module in layers:
        module.merge(safe_merge=True)
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, module.get_base_layer())


def summary(roles: object, spec: ModelSpec) -> list[str]:
    """The matrices that have a difference, one line for all layers of a kind."""
    found: dict[str, list[str]] = {}
    for (role, layer, _), one in differences(roles, spec).items():
        found.setdefault(f"{PARTS[role]}.{one.matrix.path}", []).append(str(layer))
    return [f"lora beside {path.format(','.join(layers))}" for path, layers in found.items()]


def require_bits(roles: object) -> None:
    """Raises UserError where the roles ask for 4 bits and there is nothing that can do them."""
    if not bits_of(roles):
        return
    key = "train.roles.language.lora.bits"
    missing = []
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("bitsandbytes (the extra qlora)")
    if not torch.cuda.is_available():
        missing.append("a CUDA device")
    if missing:
        message = f"4 bits need {' and '.join(missing)}; leave bits out to learn beside whole ones"
        raise UserError(Problem(message=message, key=key))


def quantise(model: Any) -> None:
    """Let the decoder layers' matrices be 4-bit NormalFloat once they are on the device.

    The band's own modules stay whole. Needs what `require_bits` asks for.
    """
    import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

    for layer in model.language_model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, matrix in block.named_children():
                if not isinstance(matrix, nn.Linear):
                    continue
                four = bnb.nn.Linear4bit(
                    matrix.in_features,
                    matrix.out_features,
                    bias=matrix.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                )
                four.weight = bnb.nn.Params4bit(
                    matrix.weight.data, requires_grad=False, quant_type="nf4"
                )
                if matrix.bias is not None:
                    four.bias = nn.Parameter(matrix.bias.data, requires_grad=False)
                setattr(block, name, four)
    model.is_loaded_in_4bit = True  # peft then stands beside such matrices
