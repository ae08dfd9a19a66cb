"""Own photographs and models from a JSON to a comparison: imported, learnt, answered, named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from eramv_lab.data.images import decode
from eramv_lab.data.shards import Manifest
from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor
from eramv_lab.model.convert import convert_llava
from eramv_lab.recipe.base import sha256_of
from eramv_lab.report.plots import read_curve
from eramv_lab.train.files import read_json
from tests.data.pictures import BAD, GOOD
from tests.hub import make_clip, make_llava, make_qwen2

KINDS = ["grey.jpg", "print.jpg", "palette.png", "alpha.png", "turned.jpg", "deep.png"]
KINDS += ["moving.gif", "thin.png", "plain.jpg"]
WRONG = ["bomb.png", "cut.jpg", "page.jpg", "empty.jpg"]
SAID = ("what color is on the left?", "red.", "and on the right?", "blue.")

RECIPE = """
data: {type: TYPE, folder: CACHE, max_broken: 0.2, SOURCE}
model:
  vision: {type: hf, path: CLIP, feature_layer: -1}
  language: {type: hf, path: QWEN2}
  anchors: {type: cls_topk, count: 4, cls: true}
  connector: mlp2x_gelu
  band: {start: 1, length: 1}
  bridge: mlp
  prompt: {type: question_first, template: chat}
train:
  epochs: 4
  images: 4
  optimizer: adamw
  lr: 1e-2
  warmup: 2
  validate_every: 5
  log_every: 1
  checkpoint_every: 4
evaluate: {max_new_tokens: 8}
trainer: {accelerator: cpu}
"""


def lab(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "eramv_lab", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def conversation(name: str, number: int) -> dict[str, object]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(SAID)]
    turns[0]["value"] += "\n<image>"  # at its end, as some of LLaVA's are
    return {"id": f"{name}-{number}", "image": f"own/{name}", "conversations": turns}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen kinds of picture, good and bad; a tower and a language model of transformers."""
    path = tmp_path_factory.mktemp("own")
    (path / "photos" / "own").mkdir(parents=True)
    for name in KINDS:
        (path / "photos" / "own" / name).write_bytes(GOOD[name])
    for name in WRONG:
        (path / "photos" / "own" / name).write_bytes(BAD[name][0])
    samples = [conversation(name, n) for n in range(3) for name in KINDS]
    samples += [conversation(name, 0) for name in WRONG]
    samples += [
        {"id": f"words-{n}", "conversations": conversation("", 0)["conversations"][2:]}  # type: ignore[index]
        for n in range(3)
    ]
    (path / "own.json").write_text(json.dumps(samples))
    text = RECIPE.replace("CLIP", str(make_clip(path / "clip"))).replace("CACHE", "cache")
    text = text.replace("QWEN2", str(make_qwen2(path / "qwen2")))
    shards = text.replace("TYPE", "shards").replace("SOURCE", "shards: {path: photos.shards}")
    (path / "own.yaml").write_text(shards)
    files = "train: 'photos.shards/train-*.tar', test: 'photos.shards/test-*.tar'"
    stream = text.replace("TYPE", "stream").replace("SOURCE", f"stream: {{{files}}}")
    (path / "streamed.yaml").write_text(stream.replace("epochs: 4", "steps: 6"))
    lab(path, "data", "import", "own.json", "photos.shards", "--images", "photos",
        "--hold-out", "0.2", "--processes", "2")  # fmt: skip
    return path


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Callable[[], Path]:
    def run() -> Path:
        if not (folder / "runs" / "own" / "table.md").exists():
            lab(folder, "fit", "own.yaml")
        return next((folder / "runs" / "own").glob("main-s0-*"))

    return run


def test_four_epochs_an_answer_to_every_question_and_each_bad_file_named(folder, fitted):
    run = fitted()
    manifest = Manifest.load(folder / "photos.shards")
    train, test, val = (manifest.counts(split) for split in ("train", "test", "val"))
    assert train["samples"] + test["samples"] + val["samples"] == 30
    result = read_json(run / "result.json")
    assert result is not None
    assert result["recipe"]["train"]["steps"] == 4 * (train["samples"] // 4)
    losses = [value for _, value in read_curve(run / "curves.csv", "train/loss")]
    assert len(losses) == result["recipe"]["train"]["steps"] and losses[-1] < losses[0] / 2
    answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == test["questions"] and {a["type"] for a in answers} <= {"own", "text"}
    skipped = result["data"]["skipped"]
    assert {Path(s["file"]).name for s in skipped} == set(WRONG)
    told = lab(folder, "compare", "own").replace("\n", " ")
    for name in WRONG:
        assert name in told, told
    assert all(name in (folder / "runs" / "own" / "table.md").read_text() for name in WRONG)


def test_the_finished_folder_answers_as_its_fit_did(folder, fitted):
    run = fitted()
    model = EramvForConditionalGeneration.from_pretrained(run).eval()
    processor = EramvProcessor.from_pretrained(run)
    answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    asked = next(a for a in answers if a["question"] == SAID[0])
    name = asked["key"].rsplit("-", 2)[0]
    picture = Image.fromarray(decode((folder / "photos" / "own" / name).read_bytes()))
    inputs = processor(images=picture, text=processor.write(SAID[0]))
    width = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    text = processor.tokenizer.decode(ids[0, width:], skip_special_tokens=True)
    assert text.split() == asked["prediction"].split() and text.strip()


@pytest.mark.slow
def test_a_stream_trains_and_says_what_it_cannot(folder, fitted):
    lab(folder, "fit", "streamed.yaml")
    result = read_json(next((folder / "runs" / "streamed").glob("main-*/result.json")))
    assert result is not None and "not exactly resumable" in result["data"]["resume"]
    own = read_json(fitted() / "result.json")
    assert own is not None and result["row"]["n"] == own["row"]["n"]


def test_a_converted_llava_learns_with_its_own_words_and_pixels(folder, tmp_path):
    llava = convert_llava(make_llava(tmp_path / "llava"), tmp_path / "start")
    assert llava == []
    slots = json.loads((tmp_path / "start" / "config.json").read_text())["slots"]
    recipe: dict[str, Any] = {
        "base": {"recipe": "none", "model": "start"},
        "model": {s: slots[s] for s in ("vision", "anchors", "connector", "language", "prompt")},
        "data": {
            "type": "shards",
            "shards": {"path": str(folder / "photos.shards")},
            "folder": "cache",
            "square": "processor",
            "max_broken": 0.2,
        },
        "train": {"steps": 2, "images": 4, "optimizer": "adamw", "validate_every": 0},
        "evaluate": {"images": 2, "max_new_tokens": 2},
        "trainer": {"accelerator": "cpu"},
    }
    recipe["model"] |= {"band": "none"}
    assert recipe["model"]["prompt"]["template"] == "chat" and slots["language"]["path"] == "none"
    recipe["arms"] = {"first": {}, "second": {"base": {"arm": "first", "model": "none"}}}
    (tmp_path / "own.yaml").write_text(json.dumps(recipe))
    lab(tmp_path, "fit", "own.yaml")
    theirs = EramvProcessor.from_pretrained(tmp_path / "start")
    for name in ("first", "second"):
        run = next((tmp_path / "runs" / "own").glob(f"{name}-s0-*"))
        result = read_json(run / "result.json")
        assert result is not None and result["row"]["n"] > 0
        ours = EramvProcessor.from_pretrained(run)
        asked = theirs.write(SAID[0])
        picture = Image.fromarray(decode(GOOD["plain.jpg"]))
        one, other = (p(images=picture, text=asked) for p in (ours, theirs))
        assert one.keys() == other.keys() and ours.write(SAID[0]) == asked
        assert all(torch.equal(one[k], other[k]) for k in ("input_ids", "pixel_values"))
        model = EramvForConditionalGeneration.from_pretrained(run)
        assert model.config.image_token_id == theirs.tokenizer.convert_tokens_to_ids("<image>")
    (tmp_path / "start" / "tokenizer.json").unlink()
    (tmp_path / "start" / "tokenizer_config.json").unlink()
    assert "needs a tokenizer" in lab(tmp_path, "fit", "own.yaml", code=2)


def spoil(shards: Path, count: int) -> list[str]:
    """Damage the pixels of the first images of the training split; their keys."""
    import tarfile

    tar_path = shards / "train-000000.tar"
    keys: list[str] = []
    with tarfile.open(tar_path) as tar:
        members = [m for m in tar if not m.name.endswith(".json")][:count]
    with tar_path.open("r+b") as file:
        for member in members:
            file.seek(member.offset_data)
            file.write(b"\0" * member.size)
            keys.append(member.name.split(".")[0])
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["sha256"] = sha256_of(tar_path)
    (shards / "manifest.json").write_text(json.dumps(manifest))
    return keys


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["8.0", "0"], ids=["features", "pixels"])
def test_samples_that_break_later_are_left_out_named_and_limited(folder, tmp_path, cache):
    subprocess.run(["cp", "-r", folder / "photos.shards", tmp_path / "photos.shards"], check=True)
    keys = spoil(tmp_path / "photos.shards", 2)
    (tmp_path / "own.yaml").write_text((folder / "own.yaml").read_text())
    changes = (f"data.cache_gib={cache}", "train.epochs=1")
    told = lab(tmp_path, "fit", "own.yaml", "data.max_broken=0.05", *changes, code=1)
    assert "2 of 30 samples are broken, data.max_broken allows 5.00%" in told
    assert "Traceback" not in told
    lab(tmp_path, "fit", "own.yaml", *changes)
    result = read_json(next((tmp_path / "runs" / "own").glob("main-*/result.json")))
    assert result is not None and [b["key"] for b in result["data"]["broken"]] == keys
    assert keys[0] in lab(tmp_path, "compare", "own")
