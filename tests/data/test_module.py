"""The loaders of an arm: features for pixels, packing where it is allowed, contact sheets."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from eramv_lab.data.collate import repeat_images
from eramv_lab.data.features import size_of
from eramv_lab.data.inspect import inspect
from eramv_lab.data.module import LabData
from eramv_lab.errors import UserError
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.slots.vision.tiny import TinyVision, TinyVisionConfig

SMALL = {"type": "tiny", "width": 16, "ffn": 32, "layers": 1}


@pytest.fixture
def arm(world, root, folder):
    def build(*, order="image_first", train=None, **model):
        model = {
            "vision": SMALL,
            "anchors": {"type": "cls_topk", "count": 4},
            "connector": "mlp2x_gelu",
            "language": "tiny",
            "prompt": order,
        } | model
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(world).items()}
        return {
            "model": model,
            "data": {"folder": str(root), "world": plain},
            "train": {"steps": 5, "images": 8, "questions": 3, "validate_images": 5}
            | (train or {}),
            "evaluate": {"batch": 4},
        }

    return build


def test_a_packed_arm_trains_on_features(arm):
    torch.manual_seed(0)
    tower = TinyVision(TinyVisionConfig(width=16, ffn=32, layers=1))
    data = LabData(arm(), seed=0, tower=tower, shown=False)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    first = batches[0]
    assert first["vision_features"]["states"].shape == (8, 144, 16)
    assert first["input_ids"].shape == first["segments"].shape
    assert first["segments"].max() == 3  # `train.questions` of the four that are stored
    assert (first["input_ids"] == data.collator.words.image).sum() == 8 * 5
    again = list(data.train_dataloader())
    assert all(
        torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(batches, again, strict=True)
    )
    data.go_to(3)
    assert torch.equal(next(iter(data.train_dataloader()))["labels"], batches[3]["labels"])
    assert sum(len(b["input_ids"]) for b in data.val_dataloader()) == 5


def test_validation_looks_at_val_and_no_other_split_has_its_scenes(arm):
    data = LabData(arm(train={"validate_images": 64}), seed=0, shown=False)
    assert data.looked_at == "val"
    loader = data.val_dataloader()
    assert loader.dataset.shards.split == "val"
    assert sum(len(b["input_ids"]) for b in loader) == 6


@pytest.mark.parametrize(
    ("split", "stage", "opened"),
    [
        ("test", "fit", {"train", "val", "test"}),
        ("val", "fit", {"train", "val"}),
        ("val", "test", {"val"}),
        ("val", None, {"train", "val", "test"}),
    ],
)
def test_features_are_kept_of_every_split_that_is_read(arm, split, stage, opened):
    tower = TinyVision(TinyVisionConfig(width=16, ffn=32, layers=1))
    recipe = arm() | {"evaluate": {"split": split}}
    data = LabData(recipe, seed=0, tower=tower, shown=False)
    data.setup(stage)
    assert data._examples.keys() == {(None, split) for split in opened}
    assert all(part.store is not None for part in data._examples.values())


def test_features_are_kept_of_all_splits_or_of_none(arm):
    """Without `val` these would just have room."""
    tower = TinyVision(TinyVisionConfig(width=16, ffn=32, layers=1))
    data = LabData(arm(), seed=0, tower=tower, shown=False)
    sizes = [size_of(data.examples(s).shards, data.spec.vision) for s in ("train", "test", "val")]
    recipe = arm()
    recipe["data"] = recipe["data"] | {"cache_gib": (sum(sizes) - 1) / 2**30}
    small = LabData(recipe, seed=0, tower=tower, shown=False)
    assert sum(sizes[:2]) < sum(sizes) and not small.cached()


def test_an_unpacked_arm_trains_on_pixels(arm):
    learning = {"roles": {"vision": "full"}, "workers": 1}
    tower = TinyVision(TinyVisionConfig(width=16, ffn=32, layers=1))
    data = LabData(arm(order="question_first", train=learning), seed=0, tower=tower, shown=False)
    batch = next(iter(data.train_dataloader()))
    assert batch["pixel_values"].shape == (8, 3, 96, 96) and "segments" not in batch
    rows = repeat_images(batch)
    assert len(rows["pixel_values"]) == len(batch["input_ids"]) == 24


def test_a_ranking_reducer_is_not_packed(arm):
    fastv = {"type": "drop", "layer": 1, "keep": 2, "rank": "previous"}
    assert LabData(arm(), seed=0).collator.pack
    assert not LabData(arm(reducer=[fastv]), seed=0).collator.pack
    assert not LabData(arm(order="question_first"), seed=0).collator.pack


def test_reading_leaves_the_default_generator_alone(arm):
    data = LabData(arm(), seed=0, shown=False)
    before = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("train", "message"),
    [({"questions": 5}, "5 is more than data.world's 4"), ({"images": 64}, "64 is more than")],
)
def test_more_than_there_is_is_refused(arm, train, message):
    with pytest.raises(UserError, match=message):
        LabData(arm(train=train), seed=0, shown=False).train_dataloader()


def test_more_images_than_the_split_that_is_answered_has(arm):
    for split, images, there in (("test", 11, 10), ("val", 7, 6)):
        recipe = arm() | {"evaluate": {"split": split, "images": images}}
        with pytest.raises(UserError, match=f"{images} is more than data.world's {there}"):
            LabData(recipe, seed=0, shown=False)


ANCHORS = (
    {"type": "cls_topk", "count": 4},
    "pool",
    "none",
    {"type": "divprune", "count": 4},
    {"type": "prumerge", "plus": True},
)


@pytest.mark.parametrize("anchors", ANCHORS, ids=str)
def test_a_contact_sheet_of_any_arm(arm, anchors, tmp_path, capsys):
    band = {"start": 1, "length": 2}
    recipe = arm(anchors=anchors, band=band)
    out = inspect(recipe, tmp_path / "a" / "sheet.png", split="val", count=3)
    with Image.open(out) as image:
        assert image.width > 600 and image.height > 400
    assert "majority" in capsys.readouterr().out
    assert parse_model(recipe["model"], [])


def test_drawing_needs_no_torch():
    code = "import sys, eramv_lab.data.make; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
