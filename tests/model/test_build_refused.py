"""Towers and language models from folders that are not whole: one clear error, and no pickle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.probes import spec_of
from laws.settings import CLIP, LANGUAGES, with_keys
from transformers import AutoModel, AutoModelForCausalLM

from eramv_lab.errors import UserError
from eramv_lab.model import build_model
from model.checkpoints import CLIP_TEXT, PLAIN, kept, spec_with


def without(folder: Path, *ends: str) -> None:
    """Take tensors out of a checkpoint."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    left = {k: v for k, v in tensors.items() if not k.endswith(ends)}
    assert len(left) < len(tensors)
    save_file(left, file, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:900])


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled(folder: Path) -> None:
    """The weights as a pickle that does something."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"evil": Evil(folder / "unpickled")}, folder / "pytorch_model.bin")


def narrower(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 8}))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "half": (lambda f: without(f, "mlp.up_proj.weight", "mlp.fc1.weight"), "lacks weights of the"),
    "cut": (cut, "cannot be loaded"),
    "bin": (pickled, "cannot be loaded from safetensors"),
    "none": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    "narrower": (narrower, "cannot be loaded"),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("slot", ["vision", "language"])
def test_a_checkpoint_that_is_not_whole_is_one_clear_error(slot: str, how: str, tmp_path: Path):
    auto: Any = AutoModel if slot == "vision" else AutoModelForCausalLM
    kept(tmp_path, auto, CLIP if slot == "vision" else LANGUAGES["llama"])
    spoil, words = BROKEN[how]
    spoil(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        build_model(spec_with(tmp_path, slot))
    text = str(caught.value)
    assert str(tmp_path) in text and len(text.splitlines()) == 1
    assert not (tmp_path / "unpickled").exists()


def test_a_head_that_is_missing_is_named(tmp_path: Path):
    kept(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    without(tmp_path, "lm_head.weight")
    with pytest.raises(UserError, match=r"language model: lm_head\.weight$"):
        build_model(spec_with(tmp_path, "language"))


def test_only_the_tower_of_a_whole_clip_has_to_be_there(tmp_path: Path):
    config = {"model_type": "clip", "vision_config": CLIP, "text_config": CLIP_TEXT}
    theirs = kept(tmp_path, AutoModel, config)
    without(tmp_path, "text_projection.weight")
    ours = build_model(spec_with(tmp_path)).vision_tower.tower
    expected = theirs.vision_model.state_dict()
    assert all(torch.equal(w, expected[k]) for k, w in ours.state_dict().items())


@pytest.mark.parametrize("slot", ["vision", "language"])
def test_a_place_that_is_no_checkpoint_is_one_clear_error(slot: str, tmp_path: Path):
    (tmp_path / "config.json").write_text("[1, 2]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/config.json").write_text("model_type: clip")
    for path, words in (
        (tmp_path, "is not a transformers config"),
        (tmp_path / "empty", "is not a folder with a config.json"),
        (tmp_path / "text", "cannot be read as JSON"),
        (tmp_path / "nowhere", "is not a folder with a config.json"),
        ("someone/some-model", "neither a folder here nor a model that the hub gave"),
    ):
        with pytest.raises(AssertionError, match=words) as caught:
            spec_with(path, slot)  # whose message is that of the problems
        text = str(caught.value).partition("\nassert ")[0]
        assert len(text.splitlines()) == 1 and f"model.{slot}.path: " in text


TOWER, WORDS = {"model_type": "clip_vision_model"}, LANGUAGES["llama"]


@pytest.mark.parametrize(
    ("slot", "config", "words"),
    [
        ("vision", {"model_type": "vit"}, "'vit' is not one of clip_vision_model"),
        ("vision", {"hidden_size": 16}, "None is not one of"),
        ("vision", TOWER | {"image_size": [224, 224]}, "image_size is \\[224, 224\\]"),
        ("vision", TOWER | {"patch_size": 0}, "patch_size is 0"),
        ("vision", TOWER | {"hidden_size": 770}, "not a multiple of 12 heads"),
        ("vision", TOWER | {"patch_size": 300}, "larger than image_size 224"),
        ("vision", TOWER | {"intermediate_size": "x"}, "intermediate_size is 'x'"),
        ("language", {"model_type": "gpt2"}, "'gpt2' is not one of llama"),
        ("language", WORDS | {"num_key_value_heads": 3}, "cannot share 3"),
        ("language", WORDS | {"mlp_bias": True}, "mlp_bias"),
        ("language", WORDS | {"hidden_size": "32"}, "hidden_size is '32'"),
    ],
)
def test_sizes_that_cannot_be_are_problems(slot: str, config: dict[str, Any], words: str):
    with pytest.raises(AssertionError, match=words):  # `spec_of` says which problems it found
        spec_of(with_keys(PLAIN, **{slot: {"type": "hf", "config": config}}, anchors="norm"))


@pytest.mark.parametrize(
    ("slot", "config"),
    [
        ("language", LANGUAGES["llama"] | {"rms_norm_eps": "small"}),
        ("vision", CLIP | {"layer_norm_eps": "small"}),
    ],
)
def test_a_value_of_the_wrong_type_is_one_clear_error(slot: str, config: dict[str, Any]):
    spec = spec_of(with_keys(PLAIN, **{slot: {"type": "hf", "config": config}}))
    with pytest.raises(UserError, match=r"transformers refuses the .* config: .*_norm_eps"):
        build_model(spec)
