"""A look at imported data: pictures of any shape, text alone, long words, what is broken."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data.pictures import GOOD
from eramv_lab.data import inspect as module
from eramv_lab.data.inspect import inspect
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Asked, Manifest, Packed, write_shard
from eramv_lab.data.sheet import MOST_LINES, ROOM, Tile, draw_sheet, short
from eramv_lab.errors import UserError

QUESTION = "greater red circle or blue star"
SMALL = {"type": "tiny", "width": 16, "ffn": 32, "layers": 1}


def shards(folder: Path, *more: Packed) -> Path:
    """Samples of every kind of picture, one without, and `more`."""
    asked = [Asked("a-0", QUESTION, "7", "compare"), Asked("a-1", QUESTION, "3", "digit", True)]
    samples = [
        Packed(name.replace(".", "-"), asked, ("png" if content[1:4] == b"PNG" else "jpg", content))
        for name, content in GOOD.items()
    ]
    samples.insert(1, Packed("words", asked[:1], None))
    folder.mkdir(parents=True, exist_ok=True)
    splits = {
        split: [write_shard(folder / f"{split}-000000.tar", [*samples, *more])]
        for split in ("train", "test")
    }
    skipped = [{"id": "x", "file": "x.jpg", "reason": "not an image"}]
    Manifest(config={}, splits=splits, skipped=skipped).save(folder)
    return folder


def arm(folder: Path, **data) -> dict:
    section = {"type": "shards", "shards": {"path": str(folder)}} | data
    model = {
        "vision": SMALL,
        "anchors": {"type": "cls_topk", "count": 4},
        "connector": "mlp2x_gelu",
        "language": "tiny",
    }
    train = {"images": 4, "validate_images": 4}
    return {"model": model, "data": section, "train": train, "evaluate": {"batch": 4}}


def told(recipe: dict, out: Path, **options) -> str:
    console = Console(file=io.StringIO(), width=200)
    assert inspect(recipe, out, console=console, **options) == out
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("square", ["pad", "crop"])
def test_imported_shards_of_every_kind_of_picture(tmp_path, square):
    folder = shards(tmp_path / "own")
    text = told(arm(folder, square=square), tmp_path / "sheet.png", count=len(GOOD) + 1)
    count = len(GOOD) + 1
    assert f"train: {count} samples, 1 of them text alone; 1 were left out at import" in text
    assert "compare" in text and "digit" in text and "p95" in text
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 600 and image.height > 400


def test_lengths_are_those_of_whole_prompts(tmp_path):
    from eramv_lab.data.module import LabData

    talk = [Asked("t-0", "red", "7", "a"), Asked("t-1", "red circle", "7", "a", follows=True)]
    samples = [
        Packed("one", [Asked("o", "red circle or blue", "7", "a")], ("png", GOOD["plain.png"])),
        Packed("talk", talk, None),
    ]
    folder = tmp_path / "own"
    folder.mkdir()
    told_ = [write_shard(folder / "train-000000.tar", samples)]
    Manifest(config={}, splits={"train": told_, "test": told_}).save(folder)
    recipe = arm(folder)
    recipe["train"]["images"] = 1
    collator = LabData(recipe, seed=0).collator
    found = module.measured(ShardDataset(folder, "train"), collator, {})
    rows = {asked.key: length for asked, length in found}
    alone = rows["t-0"]  # <bos> red answer
    assert rows == {"t-0": alone, "t-1": alone + 5, "o": alone + 3 + collator.visual_rows}
    columns = dict(module.counts(found))
    assert columns["rows"] == [f"{alone} to {rows['o']}"] and columns["questions"] == ["3"]


def test_many_types_share_a_row(monkeypatch):
    monkeypatch.setattr(module, "MOST_TYPES", 2)
    asked = [(Asked(str(n), "red", "7", kind), 3) for n, kind in enumerate("aaabbcd")]
    columns = dict(module.counts(asked))
    assert columns["type"] == ["a", "b", "2 others", "all"]
    assert columns["questions"] == ["3", "2", "2", "7"]


def test_a_large_split_is_read_in_part_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_READ", 5)
    text = told(arm(shards(tmp_path / "own")), tmp_path / "sheet.png", count=2)
    assert "from 5 samples" in text


def test_broken_samples_are_named(tmp_path):
    bad = Packed("bad", [Asked("b-0", QUESTION, "7", "compare")], ("jpg", b"no image"))
    folder = shards(tmp_path / "own", bad)
    text = told(arm(folder), tmp_path / "sheet.png", count=len(GOOD) + 2)
    assert "broken: bad: not an image" in text


def test_nothing_to_see_is_one_message(tmp_path):
    folder = shards(tmp_path / "own")
    bad = Packed("bad", [Asked("b-0", QUESTION, "7", "compare")], ("jpg", b"no image"))
    few = [write_shard(folder / "train-000000.tar", [bad] * 1)]
    told_ = Manifest.load(folder)
    Manifest(config={}, splits={**told_.splits, "train": few}).save(folder)
    recipe = arm(folder)
    recipe["train"]["images"] = 1
    with pytest.raises(UserError, match="no sample of train can be read: not an image"):
        inspect(recipe, tmp_path / "sheet.png")


def test_a_stream_is_not_looked_at(tmp_path):
    recipe = arm(tmp_path)
    recipe["data"] = {"type": "stream", "stream": {"train": "http://a/a.tar", "test": "http://b"}}
    with pytest.raises(UserError, match="a stream's training split is not looked at"):
        inspect(recipe, tmp_path / "sheet.png")


def test_what_is_long_or_strange_fits_the_sheet(tmp_path):
    lines = [("why " * 99 + "\n\x00 $x_{1$ 字", "because " * 99)] * 30
    tiles = [Tile(name="a", note="", image_HWC=None, boxes=[], lines=lines)]
    strip = np.zeros((1, 60000, 3), np.uint8)
    tiles.append(Tile(name="b", note="", image_HWC=strip, boxes=[(0, -9, 9, 0)], lines=lines[:1]))
    draw_sheet(tmp_path / "sheet.png", "a", "b", tiles, [("type", ["x"]), ("n", ["1"])])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width < 2000 and image.height < 2000
    assert short("a\n b\tc", 9) == "a b c" and short("x" * 99, ROOM) == "x" * (ROOM - 1) + "…"
    assert MOST_LINES < 30


def test_patches_are_outlined_where_the_tower_sees_them():
    assert module._seen((10, 30, 3), "pad") == (0, -10, 30)
    assert module._seen((10, 30, 3), "crop") == (10, 0, 10)
    assert module._seen((10, 30, 3), "processor") is None
    assert module._seen((9, 9, 3), "processor") == (0, 0, 9)


def test_a_shard_that_is_damaged_is_one_message(tmp_path):
    folder = shards(tmp_path / "own")
    path = folder / "train-000000.tar"
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("x.pkl")
        tar.addfile(member)
    plain = json.loads((folder / "manifest.json").read_text())
    plain["splits"]["train"]["shards"][0]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r"member 'x\.pkl' refused"):
        inspect(arm(folder), tmp_path / "sheet.png")
