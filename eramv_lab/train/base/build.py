"""Train a base from its recipe and seed, and keep it as three weight files and a page of facts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch
import transformers
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file

from eramv_lab.files import made_beside
from eramv_lab.train.base.batches import tower_states
from eramv_lab.train.base.language import BaseModel, all_token_accuracy, train_language
from eramv_lab.train.base.recipe import BaseRecipe, parse_base
from eramv_lab.train.base.start import start
from eramv_lab.train.base.tower import Tick, patch_accuracy, train_tower

THREADS = 1
"""Of the CPU: a sum over several threads has other last bits, and so every arm that starts here
would have. Two are no faster."""


def build_base(
    recipe: Mapping[str, Any],
    seed: int,
    folder: Path,
    progress: bool | Callable[[int, int, str], None] = True,
) -> dict[str, Any]:
    """Train a base and write it to `folder`, whole or not at all.

    Args:
        recipe: the plain sections of a recipe of kind `base` (`experiments/pretrain.yaml`).
        seed: seeds every weight, scene and draw; the same seed gives the same base on the same
            kind of processor.
        folder: where `vision.safetensors`, `connector.safetensors`, `language.safetensors` and
            `base.json` will lie. What it holds is replaced once the base is done.
        progress: show a bar; or what to call with (step, steps, text) instead.

    Returns:
        What `base.json` holds: recipe, seed, seconds, accuracies, versions.

    Raises:
        UserError: the recipe is not sound.
    """
    parsed = parse_base(recipe)
    parsed = replace(parsed, world=replace(parsed.world, seed=parsed.world.seed + seed))
    begun = time.perf_counter()
    steps = parsed.tower.steps + sum(phase.steps for phase in parsed.phases)
    with torch.random.fork_rng(devices=[]), _threads(THREADS), _bar(steps, progress) as tick:
        torch.manual_seed(seed)
        parts, facts = _train(parsed, seed, tick)
    facts = {
        "kind": "base",
        "recipe": dict(recipe),
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 1),
        "threads": THREADS,
        **facts,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
            "safetensors": safetensors.__version__,
        },
    }
    with made_beside(folder) as fresh:
        for name, part in parts.items():
            tensors = {key: value.contiguous() for key, value in part.state_dict().items()}
            save_file(tensors, fresh / f"{name}.safetensors", {"format": "pt"})
        (fresh / "base.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def _train(
    recipe: BaseRecipe, seed: int, tick: Tick
) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    world = recipe.world
    tower, heads = train_tower(recipe.vision, recipe.tower, world, tick)
    store = tower_states(tower, world, "base", recipe.scenes)
    held_out = tower_states(tower, world, "base-test", recipe.held_out)
    model = BaseModel(recipe.language, recipe.connector, recipe.vision.dims())
    start(model, heads, recipe.language)
    train_language(model, store, recipe.phases, recipe.fit, world, seed, tick)
    facts = {
        "patch_accuracy": patch_accuracy(tower, heads, world, recipe.held_out),
        "accuracy": all_token_accuracy(model, held_out, world),
    }
    return {"vision": tower, "connector": model.connector, "language": model.language}, facts


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(steps: int, progress: bool | Callable[[int, int, str], None]) -> Iterator[Tick]:
    if callable(progress):
        numbers = count(1)
        yield lambda text: progress(next(numbers), steps, text)
        return
    columns = (
        TextColumn("base"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("", total=steps)
        yield lambda text: bar.update(task, advance=1, description=text)
