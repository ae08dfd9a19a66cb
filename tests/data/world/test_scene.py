"""Scenes follow from their key, splits are disjoint, labels say what is drawn."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from eramv_lab.data.make import folder_of
from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.questions import questions_of
from eramv_lab.data.world.scene import _shape_mask, make_scene, patch_labels, patch_owner
from eramv_lab.data.world.vocabulary import SHAPES

WORLD = WorldConfig()


def test_a_scene_is_the_same_each_time_and_another_for_another_key() -> None:
    one, again = make_scene(WORLD, "train", 3), make_scene(WORLD, "train", 3)
    assert np.array_equal(one.image, again.image) and one.objects == again.objects
    others = [
        make_scene(WORLD, "test", 3),
        make_scene(WORLD, "train", 4),
        make_scene(WorldConfig(seed=1), "train", 3),
    ]
    for other in others:
        assert not np.array_equal(one.image, other.image)


def test_splits_share_no_scene() -> None:
    seen = {
        make_scene(WORLD, split, i).image.tobytes()
        for split in ("train", "test", "val", "base", "base-test")
        for i in range(50)
    }
    assert len(seen) == 250


def test_objects_are_apart_unique_and_inside() -> None:
    for index in range(200):
        scene = make_scene(WORLD, "train", index)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert WORLD.objects[0] <= len(scene.objects) <= WORLD.objects[1]
        assert len({(o.colour, o.shape) for o in scene.objects}) == len(scene.objects)
        assert len({o.cell for o in scene.objects}) == len(scene.objects)
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            row, column = thing.cell
            assert 24 * column <= left < right <= 24 * column + 24
            assert 24 * row <= top < bottom <= 24 * row + 24


def test_patch_labels_name_the_object_that_the_patch_shows() -> None:
    for index in range(20):
        scene = make_scene(WORLD, "train", index)
        owner = patch_owner(WORLD, scene, 8)
        labels = patch_labels(scene, owner)
        assert set(owner.tolist()) - {-1} == set(range(len(scene.objects)))
        assert ((labels == 0).all(0) == (owner == -1)).all()
        for patch in np.flatnonzero(owner >= 0).tolist():
            left, top, right, bottom = scene.objects[owner[patch]].box
            y, x = 8 * (patch // 12), 8 * (patch % 12)
            assert left < x + 8 and x < right and top < y + 8 and y < bottom


def test_hardness_keys_change_the_scene() -> None:
    plain = make_scene(WORLD, "train", 0).image
    for keys in ({"noise": 20.0}, {"digit_px": 8}, {"clutter": (30, 40)}, {"object_px": 16}):
        assert not np.array_equal(make_scene(WorldConfig(**keys), "train", 0).image, plain)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"cells": 0}, "cells"),
        ({"size": 97}, "size"),
        ({"jitter": 5}, "jitter"),
        ({"digit_px": 30}, "digit_px"),
        ({"objects": (9, 30)}, "objects"),
        ({"objects": (9, 6)}, "objects"),
        ({"clutter": (3, 1)}, "clutter"),
        ({"noise": -1.0}, "noise"),
        ({"confusable": 2.0}, "confusable"),
        ({"mix": {"digits": 1.0}}, "digits"),
        ({"shapes": ("circle", "ring")}, "ring"),
        ({"shapes": ("star", "star", "cross", "circle")}, "each once"),
        ({"shapes": ("star", "cross")}, "rise within 2 and 8"),
        ({"mix": {"digit": 0.0}}, "mix"),
        ({"train": 0}, "train"),
        ({"val": 0}, "val"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_values_are_named(keys: dict[str, object], word: str) -> None:
    assert list(WORLD.check()) == []
    assert any(word in text for text in WorldConfig(**keys).check())  # type: ignore[arg-type]


def test_scenes_are_drawn_fast() -> None:
    make_scene(WORLD, "train", 0)
    start = time.process_time()
    for index in range(100):
        make_scene(WORLD, "train", index)
    assert 100 / (time.process_time() - start) > 350  # 1400 on a quiet core; CI is noisy


def test_more_shapes_are_drawn_and_unlike_the_six() -> None:
    more = ("thing", "object")
    world = WorldConfig(shapes=(*SHAPES, *more))
    seen = {o.shape for i in range(20) for o in make_scene(world, "train", i).objects}
    assert seen == {*SHAPES, *more}
    only = WorldConfig(shapes=more, confusable=0.0, objects=(4, 9))
    assert {o.shape for o in make_scene(only, "train", 0).objects} <= set(more)
    masks = {name: _shape_mask(name, 20) for name in (*SHAPES, *more)}
    for name in more:
        others = [mask for other, mask in masks.items() if other != name]
        assert min(float(abs(masks[name] - mask).mean()) for mask in others) > 0.1
    with pytest.raises(ValueError, match="not in tuple"):
        scene = make_scene(only, "train", 0)
        patch_labels(scene, patch_owner(only, scene, 8))


def test_the_default_world_is_the_one_that_it_was() -> None:
    """Its bytes are what published numbers stand on; a new key must not move them."""
    digest = hashlib.sha256()
    for split in ("train", "test", "base"):
        scene = make_scene(WORLD, split, 7)
        digest.update(scene.image.tobytes() + repr(scene.objects).encode())
        digest.update(repr(questions_of(WORLD, split, 7)).encode())
    assert digest.hexdigest()[:16] == "65a71154d422fe8d"
    assert folder_of(WORLD).name == "29da4e10"
    assert folder_of(WorldConfig(shapes=SHAPES[:5])).name != "29da4e10"


def test_cells_that_drift_stand_anywhere_in_the_image():
    config = WorldConfig(drift=16, object_px=18, jitter=1)
    edges = []
    for index in range(40):
        objects = make_scene(config, "train", index).objects
        boxes = np.array([thing.box for thing in objects])
        assert boxes.min() >= 0 and boxes.max() <= config.size
        cells = np.array([thing.cell for thing in objects])
        edges.append(boxes[:, 1::-1] - config.room() * cells)  # where the first cell stands
    spread = np.array([edge.min(axis=0) for edge in edges])
    assert (np.ptp(spread, axis=0) > config.drift // 2).all()
    assert all((np.ptp(edge, axis=0) <= 2 * config.jitter).all() for edge in edges)
