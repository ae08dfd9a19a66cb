"""Speed of the hot paths as ratios of times taken side by side; nothing here is an assertion.

`small` is bound by its matrix products, `world` is the made world's own model, where every call
shows. A time is the least of a few medians, on one thread.
"""

import argparse
import io
import itertools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from train.fakes import fit as fake_fit
from transformers import AutoModelForCausalLM

from eramv_lab.cost.count import inputs
from eramv_lab.cost.formula import TRAINED, price
from eramv_lab.data.collate import Collator, repeat_images
from eramv_lab.data.shards import Asked
from eramv_lab.model import build_model
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.track.curves import CurveWriter
from eramv_lab.train.callbacks import Progress
from eramv_lab.train.fit import make_trainer
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import plan_fits
from eramv_lab.train.roles import set_trainable
from eramv_lab.train.study import run_study

ROOT = Path(__file__).resolve().parents[1]
STUDY = "experiments/ablation_ca.yaml"
SYSTEMS: dict[str, dict[str, Any]] = {
    "full tokens": {"anchors": "all", "band": "none"},
    "eramv": {},
    "fastv": {"anchors": "all", "band": "none", "reducer": "fastv"},
    "anchors_only": {"band": "none"},
}


class Size(NamedTuple):
    """How often, and how large; goals are meant for the defaults."""

    rounds: int = 3
    runs: int = 5
    width: int = 256
    layers: int = 8
    image: int = 128
    batch: int = 2
    text: int = 64
    words: int = 16
    images: int = 8
    steps: int = 12


TINY = Size(1, 1, width=32, layers=4, image=32, batch=1, text=8, words=3, images=2, steps=4)


class Row(NamedTuple):
    """One ratio, and what it should be at most, or at least."""

    name: str
    ratio: float
    seen: str
    at_most: float = math.inf
    at_least: float = 0

    def told(self) -> dict[str, Any]:
        bounds = {"≤": self.at_most if self.at_most < math.inf else 0, "≥": self.at_least}
        goal = next((f"{sign} {bound:.2f}" for sign, bound in bounds.items() if bound), None)
        met = self.at_least <= self.ratio <= self.at_most
        verdict = {"goal": goal, "met": met if goal else None}
        return {"name": self.name, "ratio": self.ratio, **verdict, "seen": self.seen}


def versus(name: str, ours: float, theirs: float, at_most: float = math.inf) -> Row:
    return Row(name, ours / theirs, f"{ours * 1e3:.1f} of {theirs * 1e3:.1f} ms", at_most)


def race(size: Size, *works: Callable[[], Any]) -> list[float]:
    """Seconds of each work; they take turns, so that a slow moment meets all of them."""
    best = [math.inf] * len(works)
    for work in works:
        work()
    for _ in range(size.rounds):
        times: list[list[float]] = [[] for _ in works]
        for _, (place, work) in itertools.product(range(size.runs), enumerate(works)):
            start = time.perf_counter()
            work()
            times[place].append(time.perf_counter() - start)
        best = [min(b, statistics.median(t)) for b, t in zip(best, times, strict=True)]
    return best


def world_arm(*overrides: str) -> dict[str, Any]:
    """The reference arm of the made world, from random weights."""
    changes = ["base=none", "trainer.accelerator=cpu", *overrides]
    return load_recipe(ROOT / "experiments/base.yaml", changes).arm("main").plain


def spec_of(size: Size | None, **changes: Any) -> ModelSpec:
    """The reference with some slots changed, at `size` or at the made world's."""
    section = {**world_arm()["model"], **changes}
    if size is not None:
        language = {"width": size.width, "layers": size.layers, "ffn": size.width * 8 // 3}
        section["language"] = {"type": "tiny", "heads": 4, "kv_heads": 4, **language}
        section["vision"] = {"type": "tiny", "image": size.image}
    spec = parse_model(section, problems := [])
    assert spec is not None, problems
    return spec


def learn(model: Any, batch: Mapping[str, Any]) -> None:
    """Forward and backward; what an optimizer does is the same for all."""
    model.zero_grad(set_to_none=True)
    model(**repeat_images(batch)).loss.backward()


def systems(size: Size) -> Iterator[Row]:
    """Time saved over full tokens, as a share of the FLOPs saved."""
    specs = [spec_of(size, **changes) for changes in SYSTEMS.values()]
    costs = [price(spec, text_tokens=size.text) for spec in specs]
    models: list[Any] = [build_model(spec).eval() for spec in specs]
    pairs = [(model, inputs(model, size.text, size.batch)) for model in models]
    with torch.no_grad():
        forward = race(size, *(lambda m=m, b=b: m(**b, logits_to_keep=1) for m, b in pairs))
    for model, batch in pairs:
        set_trainable(model.train(), TRAINED)
        batch["labels"] = torch.full(batch["input_ids"].shape, -100)
        batch["labels"][:, -1] = 5
    steps = race(size, *(lambda m=m, b=b: learn(m, b) for m, b in pairs))
    prefill, train = [c.prefill for c in costs], [c.train for c in costs]
    for what, seconds, flops in (("forward", forward, prefill), ("training step", steps, train)):
        for name, s, f in list(zip(SYSTEMS, seconds, flops, strict=True))[1:]:
            faster, fewer = seconds[0] / s, flops[0] / f
            seen = f"{faster:.2f} x faster, {fewer:.2f} x fewer FLOPs"
            goal = 0.80 if name == "eramv" else 0
            label = f"{name} {what}: speed-up / FLOP ratio"
            yield Row(label, faster / fewer, seen, at_least=goal)


def cache(size: Size) -> Iterator[Row]:
    """Greedy generation with the cache and without."""
    model: Any = build_model(spec_of(size)).eval()
    batch = inputs(model, size.text, size.batch)
    batch |= {"max_new_tokens": size.words, "min_new_tokens": size.words, "do_sample": False}
    works = [lambda c=c: model.generate(**batch, use_cache=c) for c in (True, False)]
    yield versus(f"generating {size.words} words: cached / not", *race(size, *works))


def loop(size: Size) -> Iterator[Row]:
    """Our decoder loop over a plain language model, and transformers' own."""

    def forward(model: Any, ids_BT: Tensor) -> None:
        model(input_ids=ids_BT, use_cache=False, logits_to_keep=1)

    def decode(model: Any, ids_BT: Tensor) -> None:
        past = None
        for width in (ids_BT.shape[1], *[1] * size.words):
            out = model(input_ids=ids_BT[:, :width], past_key_values=past, use_cache=True)
            past = out.past_key_values

    def train(model: Any, ids_BT: Tensor) -> None:
        learn(model, {"input_ids": ids_BT, "labels": ids_BT})

    ids_BT = torch.arange(size.batch * size.text).view(size.batch, -1) % 60 + 5
    for name, own in (("small", size), ("world", None)):
        ours: Any = build_model(spec_of(own, band="none")).eval()
        theirs: Any = AutoModelForCausalLM.from_config(ours.config.get_text_config()).eval()
        for what, work in {"forward": forward, "decoding": decode, "training": train}.items():
            with torch.set_grad_enabled(work is train):
                both = [lambda m=m, w=work: w(m, ids_BT) for m in (ours, theirs)]
                row = versus(f"{name} {what}: our loop / transformers'", *race(size, *both), 1.05)
            yield row


def data(size: Size) -> Iterator[Row]:
    """A training step of the made world: cached features, packed questions, Lightning's share."""
    lit = LitArm(world_arm(f"train.steps={size.steps}", "train.validate_every=0"), 0).train()
    pixels = torch.rand(size.images, 3, *[lit.spec.vision.image] * 2)
    asked = [[Asked("", "greater red circle or blue star", "7", "compare")] * 8] * size.images
    prompt, rows = lit.spec.prompt, lit.model.visual_rows
    packed, alone = (Collator(prompt, rows, pack=pack)(asked) for pack in (True, False))
    with torch.no_grad():
        seen = lit.model.vision_tower(pixels, lit.model.need)
    kept = {"states": seen.states_NPV, "cls": seen.cls_NV, "cls_attention": seen.cls_attention_NHP}
    features = {"vision_features": kept}
    batches = (packed | features, packed | {"pixel_values": pixels}, alone | features)
    cached, tower, singly = race(size, *(lambda b=b: learn(lit.model, b) for b in batches))
    yield versus("world step: cached features / tower each step", cached, tower)
    yield versus("world step: packed questions / a row each", cached, singly)
    loader: Any = [batches[0]] * size.steps
    rounds = [(lightning(lit, loader), bare(lit, loader)) for _ in range(size.rounds)]
    yield versus("world step: Lightning / bare loop", *map(min, zip(*rounds, strict=True)))


class Clock(Callback):
    """When each step began."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.began.append(time.perf_counter())

    def median(self) -> float:
        """Seconds of a step, the first left out."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.began[1:]))


def lightning(lit: LitArm, batches: Any) -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with CurveWriter(None, None, Path(name) / "curves.csv") as writer:
            trainer: Any = make_trainer(lit.hparams["arm"], writer, Progress(Path(name)))
            trainer.callbacks.append(clock)
            trainer.fit(lit, DataLoader(batches, batch_size=None))
    return clock.median()


def bare(lit: LitArm, batches: Any) -> float:
    clock, made = Clock(), lit.configure_optimizers()
    learning = [p for p in lit.train().parameters() if p.requires_grad]
    for batch in DataLoader(batches, batch_size=None):
        clock.on_train_batch_start()
        learn(lit.model, batch)
        torch.nn.utils.clip_grad_norm_(learning, lit.settings.clip or math.inf)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return clock.median()


def start(size: Size) -> Iterator[Row]:
    """Whole command lines beside an empty program and one that only imports torch."""

    def run(*line: str) -> None:
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as runs:
        recipe = load_recipe(ROOT / STUDY)
        for one in plan_fits(recipe, Path(runs) / recipe.name, None, None):
            one.folder.mkdir(parents=True)
            fake_fit(str(one.folder), one.plan())
        run_study(recipe, runs=Path(runs), prepare=False, console=Console(file=io.StringIO()))
        (Path(runs) / recipe.name / "table.md").touch()
        floors = {"python -c pass": ["-c", "pass"], "import torch": ["-c", "import torch"]}
        verbs = {"--help": ["--help"], "check": ["check", STUDY]}
        verbs["fit, all skipped"] = ["fit", STUDY, "--runs", runs]
        lines = floors | {name: ["-m", "eramv_lab", *line] for name, line in verbs.items()}
        few = size._replace(rounds=1, runs=min(3, size.runs))
        seconds = race(few, *(lambda line=line: run(*line) for line in lines.values()))
    took = dict(zip(lines, seconds, strict=True))
    for verb, floor in itertools.product(verbs, floors):
        yield versus(f"{verb} / {floor}", took[verb], took[floor])


GROUPS = {f.__name__: f for f in (systems, cache, loop, data, start)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of times on the hot paths.")
    parser.add_argument("--json", action="store_true", help="plain JSON instead of a table")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: only whether it runs")
    parser.add_argument("--only", choices=GROUPS, action="append", help="a group; repeatable")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the command lines; here:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    size = TINY if asked.tiny else Size()
    groups = {g: [row.told() for row in GROUPS[g](size)] for g in asked.only or GROUPS}
    if asked.json:
        print(json.dumps(groups, indent=1, ensure_ascii=False))
        return
    table = Table("", "ratio", "goal", "", "seen", title="Ratios of times, one thread")
    for rows in groups.values():
        for row in rows:
            verdict = {None: "", True: "[green]met", False: "[red]missed"}[row["met"]]
            ratio, goal = f"{row['ratio']:.2f}", row["goal"] or ""
            table.add_row(row["name"], ratio, goal, verdict, row["seen"])
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
