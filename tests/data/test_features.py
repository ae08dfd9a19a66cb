"""Cached features: what the tower gives, computed once, keyed by all that they depend on."""

import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from eramv_lab.data import features
from eramv_lab.data.features import FeatureStore
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.reader import ShardDataset
from eramv_lab.errors import UserError
from eramv_lab.slots.contracts import Need
from eramv_lab.slots.vision.tiny import TinyVision, TinyVisionConfig

VISION = TinyVisionConfig(width=16, ffn=32, layers=1)


@pytest.fixture(scope="module")
def tower() -> TinyVision:
    torch.manual_seed(0)
    return TinyVision(VISION)


@pytest.fixture(scope="module")
def dataset(folder) -> ShardDataset:
    return ShardDataset(folder, "train")


def test_features_equal_the_tower(tower, dataset, tmp_path):
    tower.train()
    store = FeatureStore.open(dataset, tower, VISION, root=tmp_path, batch=7)
    assert tower.training and len(store) == 40
    indices = [3, 39, 0, 3]
    got = store.batch(indices)
    with torch.no_grad():
        pixels = Pixels.of(VISION)([dataset.image(i) for i in indices])
        want = tower(pixels, Need.CLS | Need.CLS_ATTENTION)
    torch.testing.assert_close(got["states"], want.states_NPV.half().float(), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(got["cls"], want.cls_NV.half().float(), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(got["cls_attention"], want.cls_attention_NHP)
    assert got["states"].dtype == torch.float32
    assert store.batch([1], torch.bfloat16)["cls"].dtype == torch.bfloat16


def test_what_a_recipe_asks_for_is_kept_apart(tower, dataset, tmp_path):
    asked = Need.KEYS | Need.CLS_LOGITS | Need.LEVELS, (0, 1)
    plain = FeatureStore.open(dataset, tower, VISION, root=tmp_path)
    store = FeatureStore.open(dataset, tower, VISION, asked=asked, root=tmp_path)
    assert store.folder != plain.folder and store.folder.name.startswith("train-")
    got = store.batch([3, 0])
    with torch.no_grad():
        pixels = Pixels.of(VISION)([dataset.image(i) for i in (3, 0)])
        want = tower(pixels, Need.CLS | Need.CLS_ATTENTION | asked[0], asked[1]).features()
    assert got.keys() == want.keys() > plain.batch([3]).keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(got["cls_logits"], want["cls_logits"])
    bytes_of = sum(v.nbytes for v in load_file(next(store.folder.glob("*.safetensors"))).values())
    assert features.size_of(dataset, VISION, asked) == bytes_of


def test_several_files_read_as_one(tower, dataset, tmp_path, monkeypatch):
    whole = FeatureStore.open(dataset, tower, VISION, root=tmp_path / "whole")
    monkeypatch.setattr(features, "FILE_BYTES", 2 * 7 * 144 * 16 * 2)  # two batches of seven
    parts = FeatureStore.open(dataset, tower, VISION, root=tmp_path / "parts", batch=7)
    assert len(list(parts.folder.glob("*.safetensors"))) == 3
    for name, value in parts.batch(range(40)).items():
        torch.testing.assert_close(value, whole.batch(range(40))[name], atol=2e-3, rtol=1e-3)


def test_computed_once_even_by_two_at_a_time(tower, dataset, tmp_path, monkeypatch):
    calls = []
    compute = features._compute
    monkeypatch.setattr(features, "_compute", lambda *a: (calls.append(1), compute(*a)))
    stores = []

    def work():
        stores.append(FeatureStore.open(dataset, tower, VISION, root=tmp_path))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1] and stores[0].folder == stores[1].folder


def test_other_weights_other_data_other_features(tower, dataset, folder, tmp_path):
    torch.manual_seed(1)
    test = ShardDataset(folder, "test")
    folders = {
        FeatureStore.open(data, net, VISION, root=tmp_path).folder
        for data, net in ((dataset, tower), (test, tower), (test, TinyVision(VISION)))
    }
    assert len(folders) == 3


def test_a_pass_that_fails_leaves_nothing(tower, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FeatureStore.open(dataset, tower, VISION, root=tmp_path)
    assert not [p for p in (tmp_path / "features").iterdir() if p.is_dir()]


def test_damaged_features_say_so(tower, dataset, tmp_path):
    store = FeatureStore.open(dataset, tower, VISION, root=tmp_path)
    file = next(store.folder.iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged features"):
        FeatureStore.open(dataset, tower, VISION, root=tmp_path)


def test_pixels_crop_and_scale():
    import numpy as np

    pixels = replace(Pixels.of(VISION, "crop"), size=8)
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    assert torch.equal(pixels([wide]), torch.full((1, 3, 8, 8), 2.0))
    assert pixels([np.zeros((40, 30, 3), np.uint8)]).shape == (1, 3, 8, 8)
