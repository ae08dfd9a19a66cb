"""A made study on disk: run folders as a fit leaves them, without a model."""

import json
import random
from collections.abc import Callable
from pathlib import Path

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
def add_fit() -> Callable[..., Path]:
    """add_fit(study, arm, seed, images=, digest=) adds one finished fit."""
    return write_fit
