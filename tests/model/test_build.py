"""Towers and language models from folders have the real weights, and are transformers' own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.probes import spec_of
from laws.settings import CLIP, LANGUAGES, TINY, TOWERS, with_keys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from eramv_lab.model import EramvForConditionalGeneration, build_model
from eramv_lab.slots.contracts import Need
from model.checkpoints import CLIP_TEXT, PLAIN, count, kept, spec_with


@pytest.mark.parametrize("family", [*TOWERS, "clip_whole"])
def test_a_tower_from_a_folder_is_transformers_own(family: str, tmp_path: Path):
    whole = family == "clip_whole"
    config = TOWERS["clip" if whole else family]
    if whole:
        config = {"model_type": "clip", "vision_config": CLIP, "text_config": CLIP_TEXT}
    saved = kept(tmp_path / "tower", AutoModel, config)
    theirs = saved.vision_model if whole else saved
    theirs.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = theirs(pixels, output_hidden_states=True, output_attentions=True)
    for layer in (-1, -2, -3):
        spec = spec_with(tmp_path / "tower", feature_layer=layer)
        dims = spec.vision.dims()
        assert (dims.image, dims.grid, dims.width, dims.heads) == (32, (4, 4), 16, 2)
        tower = build_model(spec).eval().vision_tower
        has_cls = family != "siglip"
        assert dims.has_cls == has_cls and dims.layers == 4 + layer
        head = count(theirs.head) if family == "siglip" else 0  # pooling, which we leave out
        assert spec.vision.parameters() == count(tower) == count(theirs) - head
        with torch.no_grad():
            found = tower(pixels, Need.CLS | Need.CLS_ATTENTION if has_cls else Need.NONE)
        states = seen.hidden_states[layer]
        torch.testing.assert_close(found.states_NPV, states[:, int(has_cls) :], atol=1e-5, rtol=0)
        if has_cls:
            torch.testing.assert_close(found.cls_NV, states[:, 0], atol=1e-5, rtol=0)
            row = seen.attentions[dims.layers - 1][:, :, 0, 1:]  # of the block they come out of
            torch.testing.assert_close(found.cls_attention_NHP, row)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", LANGUAGES)
def test_a_language_model_from_a_folder_is_transformers_own(
    family: str, tied: bool, tmp_path: Path
):
    config = LANGUAGES[family] | {"tie_word_embeddings": tied}
    theirs = kept(tmp_path / "words", AutoModelForCausalLM, config)
    spec = spec_with(tmp_path / "words", "language")
    ours = build_model(spec).eval()
    dims = spec.language.dims()
    assert (dims.width, dims.layers, dims.heads, dims.kv_heads) == (32, 4, 4, 2)
    assert (dims.ffn, dims.vocab, dims.tied) == (40, 80, tied)
    assert dims.head_dim == theirs.model.layers[0].self_attn.head_dim
    assert spec.language.parameters() == count(theirs)
    head = 0 if tied else count(ours.lm_head)
    assert count(ours.language_model) + head == count(theirs)
    assert (ours.lm_head.weight is ours.language_model.embed_tokens.weight) == tied
    ids = torch.randint(5, 80, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_old_keys_of_a_config_are_read_as_transformers_reads_them(tmp_path: Path):
    """A checkpoint in half precision, with rotary keys as they used to be written."""
    theirs = kept(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_parameters", "dtype"):
        config.pop(key)
    scaling = {"type": "linear", "factor": 3.0}
    config |= {"rope_theta": 77.0, "rope_scaling": scaling, "torch_dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = build_model(spec_with(tmp_path, "language")).eval()
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    ids = torch.randint(5, 80, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        assert torch.equal(ours(input_ids=ids).logits, expected)
        plain = build_model(spec_of(with_keys(PLAIN, language={"type": "hf", "config": config})))
        assert {p.dtype for p in plain.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", LANGUAGES)
@pytest.mark.parametrize("keys", [{}, {"num_key_value_heads": None}, {"attention_bias": True}])
def test_keys_that_are_absent_or_idle_mean_what_they_mean_to_transformers(
    family: str, keys: dict[str, Any]
):
    given = ("head_dim", "num_key_value_heads", "tie_word_embeddings", "attention_bias")
    config = {k: v for k, v in LANGUAGES[family].items() if k not in given}
    config |= {"num_attention_heads": 32, "hidden_size": 64} | keys
    if family == "mistral" and None in keys.values():
        pytest.skip("transformers takes no null there")
    spec = spec_of(with_keys(PLAIN, language={"type": "hf", "config": config}))
    with torch.device("meta"):
        theirs: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert spec.language.parameters() == count(theirs)


def test_a_band_starts_from_the_checkpoints_layers(tmp_path: Path):
    theirs = kept(tmp_path, AutoModelForCausalLM, LANGUAGES["qwen3"])
    language = {"type": "hf", "path": str(tmp_path)}
    model = build_model(spec_of(with_keys(TINY, language=language, sharing="separate")))
    for i in (1, 2):
        own, copy = theirs.model.layers[i].self_attn, model.language_model.layers[i].band.sharing
        assert torch.equal(copy.k_proj.weight, own.k_proj.weight)
        assert torch.equal(copy.k_norm.weight, own.k_norm.weight)


def test_a_saved_model_needs_its_folders_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept(tmp_path / "tower", AutoModel, TOWERS["dinov2"])
    kept(tmp_path / "words", AutoModelForCausalLM, LANGUAGES["qwen2"])
    monkeypatch.setenv("HOME", str(tmp_path))
    section = with_keys(
        TINY,
        vision={"type": "hf", "path": "~/tower"},
        language={"type": "hf", "path": str(tmp_path / "words")},
    )
    model = build_model(spec_of(section)).eval()
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model/config.json").read_text()
    shutil.rmtree(tmp_path / "tower")
    shutil.rmtree(tmp_path / "words")
    again = EramvForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[1, 20, 21, *[3] * model.visual_rows, 4]])
    batch = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", TOWERS.values(), ids=TOWERS)
def test_sizes_that_a_config_leaves_out_are_transformers_defaults(family: dict[str, Any]):
    name = family["model_type"]
    spec = spec_of(
        with_keys(PLAIN, vision={"type": "hf", "config": {"model_type": name}}, anchors="all")
    )
    with torch.device("meta"):
        theirs: Any = AutoModel.from_config(AutoConfig.for_model(name))
    head = count(theirs.head) if hasattr(theirs, "head") else 0
    assert spec.vision.parameters() == count(theirs) - head
