"""A model by folder, study or hub id; an adapter on it; a message where there is none."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.talk import How, Talker, load
from eramv_lab.talk.model import device_of, find

ASK = "what digit in red circle"
SIX = How(max_new_tokens=6)


def test_a_folder_answers_as_the_model_did(
    talker: Talker, folder: Path, pictures: Path, tmp_path: Path
):
    again = load(folder, device="cpu")
    assert not again.model.training and again.device.type == "cpu"
    picture = pictures / "0.png"
    assert again.ask(picture, ASK, how=SIX) == talker.ask(picture, ASK, how=SIX)
    half = load(folder, dtype="bfloat16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    half.ask(picture, ASK, show=tmp_path / "look.png")
    assert (tmp_path / "look.png").is_file()


def test_a_study_of_one_fit_is_its_model(folder: Path, tmp_path: Path):
    fit = tmp_path / "runs" / "study" / "main-s0-12345678"
    shutil.copytree(folder, fit)
    runs = tmp_path / "runs"
    assert find("study", runs) == find(fit.parent, runs) == find(fit, runs) == str(fit)
    shutil.copytree(folder, fit.with_name("main-s1-12345678"))
    with pytest.raises(UserError, match="study holds 2 models, name one of them") as caught:
        find("study", runs)
    assert str(fit) in str(caught.value)
    with pytest.raises(UserError, match="no folder here, no study") as caught:
        find("stuyd", runs)
    assert "did you mean: study" in str(caught.value)
    assert find("owner/name", runs) == "owner/name"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no model: no config\.json"):
        find(tmp_path / "empty", runs)


def test_what_is_no_model_is_told(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="owner/name: cannot be loaded: Can't load image processor"):
        load("owner/name")
    config = shutil.copytree(folder, tmp_path / "config")
    (config / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load(config)
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="broken"):
        load(broken)
    with pytest.raises(UserError, match="no dtype 'float99'"):
        load(folder, dtype="float99")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:77"])
def test_a_device_that_is_not_there(name: str):
    with pytest.raises(UserError, match=name):
        device_of(name)


# --- adapters


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("adapters") / "lora"
    model: Any = EramvForConditionalGeneration.from_pretrained(folder)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(place))
    return place


def test_an_adapter_lies_on_its_model(folder: Path, adapter: Path, pictures: Path):
    from peft import PeftModel

    plain, laid = load(folder), load(folder, adapter=adapter)
    inputs = laid.processor(None, laid.processor.write(ASK, 0))
    model: Any = EramvForConditionalGeneration.from_pretrained(folder)
    other: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.inference_mode():
        found, expected = laid.model(**inputs).logits, other(**inputs).logits
        assert torch.equal(found, expected)
        assert not torch.allclose(found, plain.model(**inputs).logits, atol=1e-2)
    assert laid.ask(pictures / "0.png", ASK, how=SIX).ids


def test_an_adapter_that_is_none_is_told(folder: Path, adapter: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is no folder here and no hub id"):
        load(folder, adapter="nowhere")
    with pytest.raises(UserError, match=r"is an adapter: name its model, and --adapter"):
        load(adapter)
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is a pickle, which is never read"):
        load(folder, adapter=pickled)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.popitem()
    lacking = shutil.copytree(adapter, tmp_path / "lacking")
    save_file(weights, lacking / "adapter_model.safetensors")
    with pytest.raises(UserError, match="cannot be laid on this model: Found missing"):
        load(folder, adapter=lacking)
