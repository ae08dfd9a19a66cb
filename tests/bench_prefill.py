"""Prefill of whole systems at 100 M parameters: time saved, as a share of the FLOPs saved.

The recipes of `experiments/systems` at the shape `100m`: 576 patches, 64 text tokens, the tower
and the filling of the cache in it; random weights, one image, one thread.
"""

import time
from pathlib import Path
from typing import Any

import torch
from bench_rows import Rows, Size, race, versus

from eramv_lab.cost.count import inputs
from eramv_lab.cost.formula import price
from eramv_lab.model import build_model
from eramv_lab.recipe.resolve import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "experiments/systems"
FULL_TOKENS = "llava"
SYSTEMS = ("fastv", "vtw", "pyramiddrop", "eramv")
LEAST = 0.8


def prefill(size: Size) -> Rows:
    """Speed-up over full tokens, by the processor's time: neighbours on the machine are not in."""
    names = (FULL_TOKENS, *SYSTEMS)
    arms = [load_recipe(RECIPES / f"{name}.yaml", shape=size.shape).arm("main") for name in names]
    costs = [price(arm.spec, text_tokens=arm.cost.text_tokens).prefill for arm in arms]
    models: list[Any] = [build_model(arm.spec).eval() for arm in arms]
    given = [inputs(m, arm.cost.text_tokens) for m, arm in zip(models, arms, strict=True)]
    with torch.no_grad():
        works = (
            lambda m=m, g=g: m(**g, logits_to_keep=1, use_cache=True)
            for m, g in zip(models, given, strict=True)
        )
        seconds = race(size, *works, clock=time.process_time)
    for name, took, flops in list(zip(names, seconds, costs, strict=True))[1:]:
        label = f"{name} prefill at {size.shape or 'its own size'}: speed-up / FLOP ratio"
        yield versus(label, seconds[0] / took, costs[0] / flops, least=LEAST)
