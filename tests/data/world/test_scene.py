"""Scenes follow from their key, splits are disjoint, labels say what is drawn."""

from __future__ import annotations

import time

import numpy as np
import pytest

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.scene import make_scene, patch_labels, patch_owner

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
