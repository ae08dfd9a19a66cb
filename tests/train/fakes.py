"""Fits that only write files, for studies without training."""

import json
import os
import time
from pathlib import Path
from typing import Any


def fit(run_dir: str, plan: dict[str, Any]) -> None:
    """A result with an accuracy that depends on the seed; an arm called `bad...` fails."""
    folder = Path(run_dir)
    with (folder.parent / "order.txt").open("a") as file:
        file.write(f"{folder.name}\n")
    if plan["arm"].startswith("bad"):
        raise RuntimeError("no luck [/here]")
    if plan["arm"].startswith("slow"):
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    start = plan["start"].get("arm")
    if start is not None and not (Path(start) / "result.json").exists():
        raise RuntimeError(f"{start} is not finished")
    questions = [
        {
            "key": f"q{i}",
            "image": f"i{i // 2}",
            "type": "digit" if i % 2 else "color",
            "question": "what digit",
            "prediction": "7",
            "answer": "7",
            "score": float(i % (plan["seed"] + 3) > 0),
            "status": "ok",
        }
        for i in range(40)
    ]
    lines = "".join(json.dumps(q) + "\n" for q in questions)
    (folder / "predictions.jsonl").write_text(lines)
    accuracy = sum(q["score"] for q in questions) / len(questions)
    result = {
        "schema": 1,
        **{key: plan[key] for key in ("study", "arm", "seed", "hash", "recipe")},
        "row": {"accuracy": accuracy, "prefill_tflops": 4.6e-5, "seconds": 1.0, "n": 40},
        "per_type": {},
        "cost": {},
        "finished": "2026-01-01T00:00:00+00:00",
    }
    (folder / "result.json").write_text(json.dumps(result))
