"""The config: slots written out, back from JSON, and what is not sound refused."""

import json
from pathlib import Path

import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys
from laws.whole import EACH, SYSTEMS
from transformers import AutoConfig, AutoModelForImageTextToText

from eramv_lab.errors import UserError
from eramv_lab.model import EramvConfig, EramvForConditionalGeneration, build_model


@pytest.mark.parametrize("name", EACH)
def test_a_config_comes_back_from_json(name: str, tmp_path: Path):
    spec = spec_of(SYSTEMS[name])
    config = EramvConfig.from_spec(spec, init_seed=5, image_token_id=9)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, EramvConfig)
    assert again.spec == config.spec and again.spec.dims() == spec.dims()
    assert (again.init_seed, again.image_token_id) == (5, 9)
    assert again.text_config.to_dict() == config.text_config.to_dict()
    assert again.tie_word_embeddings == spec.language.dims().tied


def test_slots_that_are_not_sound_are_refused():
    slots = with_keys(TINY, **{"band.start": 9, "anchors.cont": 3})
    with pytest.raises(UserError, match=r"2 problems[\s\S]*slots\.anchors\.cont"):
        _ = EramvConfig(slots=slots).spec
    with pytest.raises(UserError, match="slots"):
        _ = EramvConfig().spec


def test_the_language_models_own_ids_are_the_models():
    config = EramvConfig.from_spec(spec_of(TINY))
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    model = build_model(spec_of(TINY))
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == 2
    assert model.generation_config.suppress_tokens == [3]


def test_a_folder_is_loaded_by_transformers_own_classes(tmp_path: Path):
    model = build_model(spec_of(SYSTEMS["plain"])).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert isinstance(again, EramvForConditionalGeneration)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["EramvForConditionalGeneration"]
