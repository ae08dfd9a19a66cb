"""A made study on disk: run folders as a fit leaves them, without a model."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TYPES = ("digit", "color", "shape", "compare")
TOWER = {"type": "tiny", "width": 64}
BAND = {"layers": [2, 3], "type": "attend", "softmax": "separate"}
ARMS = {  # accuracy, prefill MFLOPs, what the recipe says
    "eramv": (0.92, 74, {"band": BAND, "bridge": {"type": "mlp", "width": 128}}),
    "no_bridge": (0.915, 46, {"band": BAND, "bridge": "none"}),
    "anchors_only": (0.55, 35, {"band": "none", "bridge": "none"}),
    "equal_flops": (0.78, 73.5, {"band": "none", "bridge": "none", "count": 34}),
    "llava": (0.95, 215, {"band": "none", "bridge": "none", "anchors": "all"}),
    "fastv": (0.8, 80, {"band": "none", "bridge": "none", "reducer": [{"type": "drop", "at": 2}]}),
}
EXPECT = {"eramv": {"accuracy": ">= 0.85"}, "llava": {"accuracy": ">= 0.99"}, "minutes_per_fit": 3}


def arm_recipe(changes: dict, seed: int) -> dict:
    anchors = {"type": changes.get("anchors", "cls_topk"), "count": changes.get("count", 8)}
    model = {
        "vision": TOWER,
        "anchors": {"type": "all"} if anchors["type"] == "all" else anchors,
        "band": changes["band"],
        "bridge": changes["bridge"],
        "reducer": changes.get("reducer", "none"),
    }
    return {"model": model, "train": {"steps": 200, "workers": seed}, "seed": seed}


def write_fit(study: Path, arm: str, seed: int, *, images: int = 60, digest: str = "") -> Path:
    accuracy, mflops, changes = ARMS[arm]
    folder = study / f"{arm}-s{seed}-{digest or 'a1b2c3d4'}"
    folder.mkdir(parents=True)
    ease = random.Random(0)
    own = random.Random(f"{arm} {seed}")
    scores, lines = [], []
    for image in range(images):
        for i, kind in enumerate(TYPES * 2):
            hard = ease.random() * 0.8 + own.random() * 0.2
            scores.append(int(hard < accuracy - 0.03 * (i % 4)))
            lines.append(
                json.dumps(
                    {
                        "key": f"{image:04d}-{i}",
                        "image": f"{image:04d}",
                        "type": kind,
                        "question": f"what {kind} in red star",
                        "prediction": "7" if scores[-1] else "3",
                        "answer": "7",
                        "score": scores[-1],
                        "status": "ok",
                    }
                )
            )
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    curve = [f"{step},val/accuracy,{accuracy * step / 200}" for step in (50, 100, 150, 200)]
    (folder / "curves.csv").write_text("\n".join(["step,name,value", *curve]) + "\n")
    row = {
        "accuracy": sum(scores) / len(scores),
        "n": len(scores),
        "loss": 0.3,
        "prefill_tflops": mflops * 1e-6,
        "train_pflops": mflops * 3e-5,
        "parameters": 811_264,
        "trainable": 811_264,
        "visual_tokens": 145 if arm == "llava" else changes.get("count", 8) + 1,
        "fine_tokens": 144 if changes["band"] != "none" else 0,
        "kv_mib": 0.21,
        "latency_ms": 5.5,
        "latency_spread_ms": None,
        "peak_mib": 300.0,
        "seconds": 60 + seed,
    }
    result = {
        "schema": 1,
        "study": study.name,
        "arm": arm,
        "seed": seed,
        "hash": "a1b2c3d4",
        "recipe": arm_recipe(changes, seed),
        "row": row,
        "cost": {"llm_tflops": mflops * 0.9e-6, "prefill_tflops": mflops * 1e-6},
        "finished": f"2026-11-20T10:{seed:02d}:00",
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def _write_study(runs: Path, arms=tuple(ARMS), seeds=(0, 1, 2), leave_out=(), **options) -> Path:
    study = runs / "ablation_ca"
    study.mkdir(parents=True)
    about = {
        "study": study.name,
        "recipe_file": "experiments/ablation_ca.yaml",
        "question": "Do 9 anchors with a cross-attention band beat plain anchors at equal FLOPs?",
        "arms": list(arms),
        "seeds": list(seeds),
        "expect": EXPECT,
    }
    (study / "study.json").write_text(json.dumps(about))
    for arm in arms:
        for seed in seeds:
            if (arm, seed) not in leave_out:
                write_fit(study, arm, seed, **options)
    return study


@pytest.fixture
def write_study() -> Callable[..., Path]:
    """write_study(runs, arms=, seeds=, leave_out=, images=) makes `runs/ablation_ca`."""
    return _write_study


@pytest.fixture
def made_arms() -> dict[str, Any]:
    """Accuracy, prefill MFLOPs and recipe of each arm that can be made, by name."""
    return ARMS


@pytest.fixture
def add_fit() -> Callable[..., Path]:
    """add_fit(study, arm, seed, images=, digest=) adds one finished fit."""
    return write_fit


def trial(number: int, start: int | None, length: int | None, anchors: int, **changes: Any) -> dict:
    """A completed trial of search.json; what is trained and priced is made up, evenly."""
    fine = 144 if start is not None else 0
    depth = 0 if start is None else math.exp(-((start - 2) ** 2 + (length - 2) ** 2) / 9)
    accuracy = round(0.30 + 0.11 * math.log2(anchors) / 2 + 0.35 * depth, 4)
    price = 20e-6 + 2.5e-6 * anchors + (6e-6 * length if length else 0)
    band = {} if start is None else {"model.band.start": start, "model.band.length": length}
    made = {
        "number": number,
        "label": f"t{number:03d} " + (f"s{start} n{length} " if fine else "") + f"a{anchors}",
        "state": "complete",
        "given": None,
        "params": {
            **band,
            "model.anchors.count": anchors,
            "model.bridge": ["mlp", "none"][number % 2],
            "train.lr": 3e-4 * 1.4 ** (number % 5),
        },
        "values": [accuracy],
        "step": 200,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.02,
        "accuracy_high": accuracy + 0.02,
        "n": 1200,
        "prefill_tflops": price,
        "train_pflops": price * 40,
        "parameters": 811_264 + 100 * anchors,
        "trainable": 811_264,
        "visual_tokens": anchors + 1,
        "fine_tokens": fine,
        "kv_mib": 0.2,
        "latency_ms": 2 + anchors / 32 + 0.1 * (number % 3),
        "peak_mib": 90.0,
        "seconds": 40.0 + number,
        "loss": round(1.2 - accuracy, 4),
        "band_start": start,
        "band_length": length,
        "anchors": anchors,
        "plain": start is None,
        "resumed": 0,
        "folder": f"trials/s{start}_n{length}_a{anchors}-s0-1a2b3c4d",
        "hash": "1a2b3c4d",
        "error": None,
    }
    made |= changes
    if made["state"] == "pruned":
        cut = {"accuracy": round(accuracy * 0.7, 4), "step": 60, "values": []}
        made |= cut | {"accuracy_low": None, "accuracy_high": None, "latency_ms": None}
    elif made["state"] != "complete":
        measured = ("accuracy", "accuracy_low", "accuracy_high", "n", "latency_ms", "loss", "step")
        made |= dict.fromkeys(measured) | {"values": []}
    return made


def make_trials(count: int = 24) -> list[dict]:
    """Paper and three plain ones first, then sampled ones of every state."""
    made = [
        trial(0, 2, 2, 8, given="paper"),
        trial(1, None, None, 4, given="plain"),
        trial(2, None, None, 16, given="plain_16"),
        trial(3, None, None, 64, given="plain_64"),
    ]
    draw = random.Random(3)
    while len(made) < count:
        number = len(made)
        length = draw.randint(1, 4)
        start = draw.randint(0, 6 - length)
        state = "complete"
        if number % 6 == 5:
            state = "pruned"
        made.append(trial(number, start, length, draw.choice((4, 8, 16, 32)), state=state))
    if count > 12:
        made[9] = trial(9, 0, 4, 64, state="infeasible")
        made[10] = trial(10, 1, 3, 8, state="failed", error="Traceback ...\nLabError: a NaN loss")
        made[12] = trial(12, 3, 1, 16, state="interrupted")
        made[13] = trial(13, 3, 1, 16, resumed=1)
    return made[:count]


def make_search(count: int = 24, **changes: Any) -> dict:
    """The object of search.json."""
    trials = make_trials(count)
    done = [t for t in trials if t["state"] == "complete"]
    best = max(done, key=lambda t: t["accuracy"], default=None)
    finalist = best and {
        "number": best["number"],
        "label": best["label"],
        "seeds": [0, 1, 2],
        "values": [best["accuracy"], best["accuracy"] - 0.01, best["accuracy"] - 0.02],
        "mean": best["accuracy"] - 0.01,
    }
    return {
        "schema": 1,
        "study": "band_search",
        "question": "Which band of layers is best within 0.46 of the price of all patches?",
        "goals": [{"metric": "accuracy", "direction": "maximize"}],
        "budget": [{"name": "prefill", "limit": 199.6e6, "said": "0.46 of llava"}],
        "reference": {
            "accuracy": 0.0,
            "prefill_tflops": 0.000434,
            "said": "accuracy 0 at the price of all patches",
        },
        "space": {
            "keys": {
                "model.band.start": {"from": 0, "to": 5},
                "model.band.length": {"from": 1, "to": 4},
                "model.anchors.count": {"from": 4, "to": 64},
                "model.bridge": ["none", "mlp"],
            },
            "points": 1234,
        },
        "sampler": "gp",
        "pruner": "percentile",
        "asked": count,
        "seed": 0,
        "spent": {"wall_seconds": 900.0, "trial_seconds": 1500.0, "train_pflops": 0.12},
        "startup_seconds": {"median": 0.4, "first": 9.0},
        "trials": trials,
        "importance": {
            "model.band.start": 0.5,
            "model.band.length": 0.28,
            "model.anchors.count": 0.19,
            "model.bridge": 0.02,
            "train.lr": 0.01,
        },
        "finalists": [finalist] if best else [],
        "best": best
        and {"number": best["number"], "label": best["label"], "changes": best["params"]},
    } | copy.deepcopy(changes)


def _write_search(runs: Path, count: int = 24, **changes: Any) -> Path:
    made = make_search(count, **changes)
    folder = runs / "band_search"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_text(json.dumps(made))
    return folder


@pytest.fixture
def write_search() -> Callable[..., Path]:
    """write_search(runs, count=, **keys of search.json) makes `runs/band_search`."""
    return _write_search


@pytest.fixture
def search_trial() -> Callable[..., dict]:
    """search_trial(number, band start, band length, anchors, **keys) is a trial of search.json."""
    return trial
