"""What cannot be converted, there or back, is refused by name, and nothing is half written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.model.convert import convert_llava, to_llava
from tests.hub import make_llama, make_llava

NORM = "language_model.model.norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava") / "theirs", shard="1GB")


@pytest.fixture
def source(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "theirs")


def refused(source: Path | str, *words: str) -> None:
    out = Path("out")
    beside = Path.cwd()
    before = set(beside.iterdir())
    with pytest.raises(UserError) as error:
        convert_llava(source, out)
    assert set(beside.iterdir()) == before and not out.exists()
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    plain = json.loads(file.read_text())
    change(plain)
    file.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("vision_feature_layer", [-2, -1], "several layers"),
        ("vision_feature_layer", 0, "the tower has 3 layers"),
        ("vision_feature_layer", -9, "the tower has 3 layers"),
        ("projector_hidden_act", "silu", "'silu'"),
        ("multimodal_projector_bias", False, "multimodal_projector_bias"),
        ("quantization_config", {"bits": 4}, "quantised"),
        ("model_type", "llava_next", "'llava_next', and only 'llava'"),
        ("image_token_index", 7, "image_token_index is 7"),
        ("image_token_index", "seven", "configs cannot be read"),
    ],
)
def test_a_config_that_no_slot_holds(source: Path, key: str, value: Any, told: str):
    edited(source / "config.json", lambda plain: plain.update({key: value}))
    refused(source, str(source) if key != "image_token_index" else "", told)


def test_all_of_a_config_at_once(source: Path):
    def change(plain: dict[str, Any]) -> None:
        plain.update(projector_hidden_act="silu", vision_feature_layer=[-1, -2])

    edited(source / "config.json", change)
    refused(source, "2 problems", "projector_hidden_act", "vision_feature_layer")


def test_siglip_without_its_first_patch(tmp_path: Path):
    more: Any = {"vision_feature_select_strategy": "default"}
    source = make_llava(tmp_path / "theirs", tower="siglip_vision_model", **more)
    refused(source, "default leaves out the first row")


def test_files_that_are_not_whole(source: Path):
    file = source / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    refused(source, str(file), "cut off")
    torch.save({"a": torch.ones(1)}, file)
    refused(source, str(file), "pickle")
    file.unlink()
    torch.save({"a": torch.ones(1)}, source / "pytorch_model.bin")
    refused(source, str(source), "pytorch_model.bin", "never read")


def test_shards_that_are_not_all_there(tmp_path: Path):
    source = make_llava(tmp_path / "theirs")
    shards = sorted(source.glob("*.safetensors"))
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:50])
    refused(source, shards[1].name, "is missing", shards[2].name, "2 problems")


def test_tensors_that_do_not_fit(source: Path):
    file = source / "model.safetensors"
    state = load_file(file)
    state["language_model.model.extra.weight"] = torch.ones(2)
    del state[NORM]
    state["vision_tower.pre_layrnorm.bias"] = torch.ones(7)
    save_file(state, file, metadata={"format": "pt"})
    refused(source, f"lacks {NORM}", "extra.weight", "pre_layrnorm.bias is [7]", "says [32]")
    state["vision_tower.pre_layrnorm.bias"] = torch.ones(7, dtype=torch.int8)
    save_file(state, file, metadata={"format": "pt"})
    refused(source, "pre_layrnorm.bias is I8")


def test_older_files_are_read(source: Path, whole: Path):
    """Names as on the hub, with the tables that older versions saved."""
    file = source / "model.safetensors"
    state = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in load_file(file).items()
    }
    state["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, file, metadata={"format": "pt"})
    convert_llava(source, Path("one"))
    convert_llava(whole, Path("two"))
    one, two = (load_file(Path(name) / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_tied_head_that_differs_is_kept(tmp_path: Path):
    words = {"tie_word_embeddings": True}
    source = make_llava(tmp_path / "theirs", words=words, shard="1GB")
    file = source / "model.safetensors"
    state = load_file(file)
    embedding = state["language_model.model.embed_tokens.weight"]
    state["language_model.lm_head.weight"] = embedding.clone()
    save_file(state, file, metadata={"format": "pt"})
    same = EramvForConditionalGeneration.from_llava(source)
    assert same.lm_head.weight is same.language_model.embed_tokens.weight
    state["language_model.lm_head.weight"] = embedding + 1
    save_file(state, file, metadata={"format": "pt"})
    apart: Any = EramvForConditionalGeneration.from_llava(source)
    assert torch.equal(apart.lm_head.weight, embedding + 1)


def test_sources_that_are_none(tmp_path: Path):
    refused("./nowhere", "nowhere is not a folder with a config.json")
    refused(str(make_llama(tmp_path / "llama")), "'llama', and only 'llava'")
    refused("llava-hf/not-here", "llava-hf/not-here")


def test_a_folder_that_holds_something_is_left_alone(source: Path):
    Path("out").mkdir()
    (Path("out") / "mine").touch()
    with pytest.raises(UserError, match="out: is not empty"):
        convert_llava(source, Path("out"))
    assert [file.name for file in Path("out").iterdir()] == ["mine"]
    convert_llava(source, Path("new/deep/out"))
    assert [file.name for file in Path("new/deep").iterdir()] == ["out"]


def test_no_processor_is_told(source: Path):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    (told,) = convert_llava(source, Path("out"))
    assert "has no processor" in told
    assert not list(Path("out").glob("token*"))
    EramvForConditionalGeneration.from_pretrained("out")


def test_back_names_each_slot_in_the_way(source: Path):
    section: dict[str, Any] = {
        "anchors": {"type": "cls_topk", "count": 4},
        "band": {"start": 1, "length": 1},
        "connector": {"type": "mlp2x_gelu", "skip": True},
        "prompt": {"type": "question_first", "positions": "one"},
        "reducer": {"type": "drop", "layer": 1, "keep": 1},
    }
    convert_llava(source, Path("ours"), section)
    with pytest.raises(UserError) as error:
        to_llava(Path("ours"), Path("back"))
    text = str(error.value)
    for slot in ("anchors", "band", "connector.skip", "prompt", "prompt.positions", "reducer"):
        assert f"model.{slot}: is " in text, text
    assert "6 problems" in text and not Path("back").exists()
    with pytest.raises(UserError, match="'llava', so this is no model"):
        to_llava(source, Path("back"))
    with pytest.raises(UserError, match="nowhere: is not a folder"):
        to_llava("nowhere", Path("back"))
