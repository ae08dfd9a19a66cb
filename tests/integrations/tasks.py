"""A task of lmms-eval that lies in a folder: its YAML, its functions, its documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

UTILS = '''
"""Functions that the task's YAML names."""
from PIL import Image


def visual(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]


def results(doc, results):
    return {"accuracy": float(results[0] == doc["answer"])}
'''


def write_tasks(folder: Path, docs: Sequence[dict[str, Any]]) -> Path:
    """`made_world` (answers are generated) and `made_world_choice` (the likeliest is taken).

    A document: `images` (paths), `question`, `answer`, and `choices` for the second task. Returns
    the folder for `--include_path`.
    """
    place = folder / "tasks"  # a folder of a task's name, where it is asked for, is taken for it
    place.mkdir()
    (folder / "docs.json").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (place / "utils.py").write_text(UTILS)
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.json")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    generated = {
        "task": "made_world",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 2, "temperature": 0, "do_sample": False},
        "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
    }
    chosen = {
        "task": "made_world_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{choices.index(answer)}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (shared | generated, shared | chosen):
        text = yaml.safe_dump(task) + "doc_to_visual: !function utils.visual\n"
        if task["output_type"] == "generate_until":
            text += "process_results: !function utils.results\n"
        (place / f"{task['task']}.yaml").write_text(text)
    return folder
