"""Speed of the hot paths as ratios of times taken side by side; nothing here is an assertion.

`small` is bound by its matrix products, `world` is the made world's own model, where every call
shows. A time is the least of a few medians, on one thread.
"""

import argparse
import io
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from bench_prefill import prefill
from bench_reading import reading
from bench_rows import Rows, Size, race, versus
from bench_sweep import sweep
from rich.console import Console
from rich.table import Table
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
from eramv_lab.train.callbacks import Progress, Report
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import plan_fits
from eramv_lab.train.roles import set_trainable
from eramv_lab.train.study import run_study
from eramv_lab.train.trainer import make_trainer

ROOT = Path(__file__).resolve().parents[1]
STUDY = "experiments/ablation_ca.yaml"
SYSTEMS: dict[str, dict[str, Any]] = {
    "full tokens": {"anchors": "all", "band": "none"},
    "eramv": {},
    "fastv": {"anchors": "all", "band": "none", "reducer": "fastv"},
    "anchors_only": {"band": "none"},
}
# How often; sizes of `small`; words generated; a batch of the made world, and steps of its fit;
# samples that are read, folder of the data that `sweep` takes; shape of `prefill`.
FULL = Size(
    **{"warm": 1, "rounds": 3, "runs": 4, "width": 256, "layers": 8, "image": 128, "text": 64},
    **{"words": 16, "images": 8, "steps": 12, "samples": 2000, "data": "data"},
    shape="100m",
)
TINY = Size(
    **{"warm": 0, "rounds": 1, "runs": 1, "width": 32, "layers": 4, "image": 32, "text": 8},
    **{"words": 3, "images": 2, "steps": 4, "samples": 20, "data": None},
    shape=None,
)
BATCH = 2


def world_arm(*overrides: str) -> dict[str, Any]:
    """The reference arm of the made world, from random weights."""
    changes = ["base=none", "trainer.accelerator=cpu", "train.validate_every=0", *overrides]
    return load_recipe(ROOT / "experiments/base.yaml", changes).arm("main").plain


def spec_of(size: Size | None, **changes: Any) -> ModelSpec:
    """The reference with some slots changed, at `size` or at the made world's."""
    section = {**world_arm()["model"], **changes}
    if size is not None:
        language = {"width": size.width, "layers": size.layers, "ffn": size.width * 8 // 3}
        section["language"] = {"type": "tiny", "heads": 4, "kv_heads": 4, **language}
        section["vision"] = {"type": "tiny", "image": size.image}
    spec = parse_model(section, [])
    assert spec is not None, section
    return spec


def learn(model: Any, batch: Mapping[str, Any]) -> None:
    """Forward and backward; what an optimizer does is the same for all."""
    model.zero_grad(set_to_none=True)
    model(**repeat_images(batch)).loss.backward()


def systems(size: Size) -> Rows:
    """Time saved over full tokens, as a share of the FLOPs saved."""
    specs = [spec_of(size, **changes) for changes in SYSTEMS.values()]
    costs = [price(spec, text_tokens=size.text) for spec in specs]
    models: list[Any] = [build_model(spec).eval() for spec in specs]
    pairs = [(model, inputs(model, size.text, BATCH)) for model in models]
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
            label, least = f"{name} {what}: speed-up / FLOP ratio", 0.8 if name == "eramv" else 0
            yield versus(label, seconds[0] / s, flops[0] / f, least=least)


def cache(size: Size) -> Rows:
    """Greedy generation with the cache and without."""
    model: Any = build_model(spec_of(size)).eval()
    batch = inputs(model, size.text, BATCH)
    batch |= {"max_new_tokens": size.words, "min_new_tokens": size.words, "do_sample": False}
    works = [lambda c=c: model.generate(**batch, use_cache=c) for c in (True, False)]
    yield versus(f"generating {size.words} words: cached / not", *race(size, *works))


def loop(size: Size) -> Rows:
    """Our decoder loop over a plain language model, and transformers' own."""

    ids_BT = torch.arange(BATCH * size.text).view(BATCH, -1) % 60 + 5

    def decode(model: Any) -> None:
        past = None
        for width in (size.text, *[1] * size.words):
            out = model(input_ids=ids_BT[:, :width], past_key_values=past, use_cache=True)
            past = out.past_key_values

    works: dict[str, Callable[[Any], Any]] = {
        "forward": lambda m: m(input_ids=ids_BT, use_cache=False, logits_to_keep=1),
        "decoding": decode,
        "training": lambda m: learn(m, {"input_ids": ids_BT, "labels": ids_BT}),
    }
    for name, own in (("small", size), ("world", None)):
        ours: Any = build_model(spec_of(own, band="none")).eval()
        theirs: Any = AutoModelForCausalLM.from_config(ours.config.get_text_config()).eval()
        for what, work in works.items():
            with torch.set_grad_enabled(what == "training"):
                both = [lambda m=m, w=work: w(m) for m in (ours, theirs)]
                seconds = race(size, *both)
            yield versus(f"{name} {what}: our loop / transformers'", *seconds, most=1.05)


def data(size: Size) -> Rows:
    """A training step of the made world: cached features, packed questions, Lightning's share."""
    lit = LitArm(world_arm(f"train.steps={size.steps}"), 0).train()
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
    ways = (lightning, bare)
    rounds = [[step_time(way, lit, batches[0]) for way in ways] for _ in range(size.rounds)]
    fitted, plain = (min(times) for times in zip(*rounds, strict=True))
    yield versus("world step: Lightning / bare loop", fitted, plain)
    yield versus("world step: with optimizer / forward and backward", plain, cached)


def step_time(way: Callable[..., None], lit: LitArm, batch: Mapping[str, Any]) -> float:
    """Median seconds from one batch that is asked for to the next, the first left out."""
    asked: list[float] = []

    def batches() -> Iterator[Mapping[str, Any]]:
        for _ in range(lit.settings.steps):
            asked.append(time.perf_counter())
            yield batch

    way(lit, batches())
    return statistics.median(b - a for a, b in itertools.pairwise(asked[1:]))


def lightning(lit: LitArm, batches: Any) -> None:
    with tempfile.TemporaryDirectory() as name, CurveWriter(None, None, Path(name) / "c") as writer:
        report = Report(Progress(Path(name)))
        make_trainer(lit.hparams["arm"], writer, [report]).fit(lit, batches)


def bare(lit: LitArm, batches: Any) -> None:
    made = lit.configure_optimizers()
    learning = [p for p in lit.train().parameters() if p.requires_grad]
    for batch in batches:
        learn(lit.model, batch)
        torch.nn.utils.clip_grad_norm_(learning, lit.settings.clip or torch.inf)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()


def start(size: Size) -> Rows:
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
        few = Size(warm=size.warm, rounds=1, runs=min(3, size.runs))
        took = race(few, *(lambda line=line: run(*line) for line in lines.values()))
    of = dict(zip(lines, took, strict=True))
    for verb, floor in itertools.product(verbs, floors):
        yield versus(f"{verb} / {floor}", of[verb], of[floor])


GROUPS = {f.__name__: f for f in (systems, prefill, cache, loop, data, reading, start, sweep)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of times on the hot paths.")
    parser.add_argument("--json", action="store_true", help="plain JSON instead of a table")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: only whether it runs")
    parser.add_argument("--only", choices=GROUPS, action="append", help="a group; repeatable")
    parser.add_argument("--data", help="folder of the made world and its base, of `sweep`")
    asked = parser.parse_args()
    size = TINY if asked.tiny else FULL
    size.data = asked.data or size.data
    os.environ["OMP_NUM_THREADS"] = "1"  # of the command lines; here:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    groups = {g: list(GROUPS[g](size)) for g in asked.only or GROUPS}
    if asked.json:
        print(json.dumps(groups, indent=1))
        return
    table = Table("", "ratio", "goal", "", "of (seconds, or times faster)")
    verdicts = {None: "", True: "[green]met", False: "[red]missed"}
    for r in itertools.chain.from_iterable(groups.values()):
        ratio, seen = f"{r['ratio']:.2f}", "{:.3g} / {:.3g}".format(*r["of"])
        table.add_row(r["name"], ratio, r["goal"], verdicts[r["met"]], seen)
    Console().print(table)


if __name__ == "__main__":
    main()
