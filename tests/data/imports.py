"""Samples as LLaVA writes them, a folder of pictures good and bad, and an import of them."""

import json
import os
from pathlib import Path

from rich.console import Console

from data.pictures import BAD, GOOD
from eramv_lab.data.importing import import_llava
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Manifest


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def sample(image: str | None = None, *texts: str, **more) -> dict:
    plain = {"conversations": turns(*(texts or ("<image>\nWhat is it?", "A flag.")))}
    return plain | ({"image": image} if image else {}) | more


TEXT_ONLY = sample(None, "Say hello.", "Hello.", id="words")
LINES = ("<image>\nWhat is left?", "Red.", "And right?", "Blue.")


def fill(folder: Path) -> Path:
    """The folder with images/ of every kind, good and bad, and all.json that names them all."""
    for kind, files in (("coco", GOOD), ("gqa", {n: c for n, (c, _) in BAD.items()})):
        (folder / "images" / kind).mkdir(parents=True)
        for name, content in files.items():
            (folder / "images" / kind / name).write_bytes(content)
    (folder / "secret.png").write_bytes(GOOD["plain.png"])
    (folder / "images" / "link.png").symlink_to(folder / "secret.png")
    (folder / "images" / "out").symlink_to(folder)
    os.mkfifo(folder / "images" / "pipe.png")
    samples = [sample(f"coco/{name}", *LINES, id=name) for name in GOOD]
    samples += [sample(f"gqa/{name}", id=name) for name in BAD]
    samples += [TEXT_ONLY, sample("coco/none.jpg", id="missing")]
    (folder / "all.json").write_text(json.dumps(samples))
    return folder


def run(source: Path, out: Path, **options) -> Path:
    options = {"processes": 1, "shard_size": 4, "console": Console(quiet=True)} | options
    return import_llava(
        options.pop("file", source / "all.json"), source / "images", out, shown=False, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def kept(folder: Path) -> dict[str, tuple]:
    """Image and questions of every sample by the id that its questions carry."""
    found = {}
    for split in Manifest.load(folder).splits:
        dataset = ShardDataset(folder, split, verify=True)
        for index in range(len(dataset)):
            one = dataset[index]
            found[one.questions[0].key.rpartition("-")[0]] = (split, one)
    return found


def named(folder: Path, split: str) -> set[str]:
    return {name for name, (where, _) in kept(folder).items() if where == split}
