"""The contract with lmms-eval itself: its command line scores a model folder on a local task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from integrations.conftest import picture
from integrations.tasks import write_tasks

from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed here: make test-lmms")
pytestmark = pytest.mark.slow

CHOICES = ["red", "blue", "green", "5"]
QUESTIONS = (
    ("what digit in red star", 1),
    ("greater cyan star or red star", 2),
    ("digit 3", 0),
    ("color of digit 3", 1),
    ("what digit in red circle", 1),
    ("what digit in blue circle", 1),
)


def lmms_eval(place: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs `lmms-eval eval` in `place`; results and samples by task."""
    command = [
        str(Path(sys.executable).with_name("lmms-eval")), "eval",
        "--model", "eramv", "--model_args", f"pretrained={folder}", "--device", "cpu",
        "--batch_size", "4", "--include_path", str(place),
        "--log_samples", "--output_path", str(place / "out"), *arguments,
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    done = subprocess.run(
        command, cwd=place, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    told = done.stdout[-3000:] + done.stderr[-6000:]
    assert done.returncode == 0, told
    files = sorted((place / "out").rglob("*.json*"))
    results = [file for file in files if file.name.endswith("_results.json")]
    assert results, told
    samples = [file for file in files if "_samples_" in file.name]
    lines = [json.loads(line) for file in samples for line in file.read_text().splitlines()]
    lines.sort(key=lambda line: line["doc_id"])
    return {"results": json.loads(results[0].read_text())["results"], "samples": lines}


@pytest.fixture
def documents(folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Questions and their pictures; a test says which answers are right."""
    docs = []
    for n, (question, images) in enumerate(QUESTIONS):
        paths = [str(tmp_path / f"{n}{k}.png") for k in range(images)]
        for k, path in enumerate(paths):
            picture(10 * n + k).save(path)
        docs.append({"question": question, "images": paths, "choices": CHOICES, "answer": "red"})
    return docs


def own_answer(folder: Path, doc: dict[str, Any], **settings: Any) -> Any:
    """What the model says by itself: one question, plain transformers."""
    from PIL import Image

    model = EramvForConditionalGeneration.from_pretrained(folder)
    processor: Any = EramvProcessor.from_pretrained(folder)
    prompt = processor.write(doc["question"], len(doc["images"]))
    inputs = processor(images=[Image.open(path) for path in doc["images"]], text=prompt)
    if settings:
        ids = model.generate(**inputs, do_sample=False, **settings)[0]
        width = inputs["input_ids"].shape[1]
        return processor.tokenizer.decode(ids[width:], skip_special_tokens=True)
    logits = model(**inputs).logits[0, -1]
    ids = processor.tokenizer.convert_tokens_to_ids(doc["choices"])
    return doc["choices"][int(logits[ids].argmax())]


@pytest.mark.parametrize("interface", ["chat", "simple"])
def test_it_says_what_the_model_says(folder, documents, tmp_path, interface):
    says = [own_answer(folder, doc, max_new_tokens=2) for doc in documents]
    assert len(set(says)) > 2
    for doc, said in list(zip(documents, says, strict=True))[::2]:
        doc["answer"] = said
    right = sum(doc["answer"] == said for doc, said in zip(documents, says, strict=True))
    how = ["--force_simple"] * (interface == "simple")
    found = lmms_eval(write_tasks(tmp_path, documents), folder, "--tasks", "made_world", *how)
    assert [line["filtered_resps"] for line in found["samples"]] == says
    assert found["results"]["made_world"]["accuracy,none"] == pytest.approx(right / len(says))


def test_the_likeliest_choice_is_taken(folder, documents, tmp_path):
    best = [own_answer(folder, doc) for doc in documents]
    assert len(set(best)) > 1
    for doc, said in list(zip(documents, best, strict=True))[1:]:
        doc["answer"] = said
    right = sum(doc["answer"] == said for doc, said in zip(documents, best, strict=True))
    place = write_tasks(tmp_path, documents)
    found = lmms_eval(place, folder, "--tasks", "made_world_choice", "--force_simple")
    accuracy = found["results"]["made_world_choice"]["acc,none"]
    assert accuracy == pytest.approx(right / len(best))
