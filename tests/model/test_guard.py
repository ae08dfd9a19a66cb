"""Damaged model folders are refused with the file and the reason, and nothing is unpickled."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY
from transformers import AutoModelForImageTextToText, AutoProcessor

import eramv_lab.model.guard as guard
from eramv_lab.data.processor import world_processor
from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor, build_model
from eramv_lab.model.guard import INDEX, SAFE

Damage = Callable[[Path], None]
OPENED: list[str] = []


class Bomb:
    """Tells that it was unpickled."""

    def __reduce__(self) -> Any:
        return OPENED.append, ("opened",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, spec = tmp_path_factory.mktemp("whole"), spec_of(TINY)
    model = build_model(spec)
    model.save_pretrained(place / "one")
    world_processor(spec).save_pretrained(place / "one")
    model.save_pretrained(place / "shards", max_shard_size="40KB")
    assert (place / "shards" / INDEX).exists()
    return place


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(whole / name, tmp_path / name))


def edited(name: str, **changes: Any) -> Damage:
    """A JSON file with dotted keys changed; None takes one out."""

    def damage(folder: Path) -> None:
        plain = json.loads((folder / name).read_text())
        for key, value in changes.items():
            *path, last = key.split("__")
            place = plain
            for part in path:
                place = place[part]
            place.pop(last, None)
            if value is not None:
                place[last] = value
        (folder / name).write_text(json.dumps(plain))

    return damage


def written(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data) and None


def gone(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def cut(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def pickled(name: str, *, legacy: bool = False) -> Damage:
    def damage(folder: Path) -> None:
        (folder / SAFE).unlink()
        if legacy:
            (folder / name).write_bytes(pickle.dumps({"weight": Bomb()}, protocol=2))
        else:
            torch.save({"weight": Bomb()}, folder / name)

    return damage


def header_changed(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / SAFE).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        new = json.dumps(header).encode()
        (folder / SAFE).write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])

    return damage


def first_tensor(header: dict[str, Any]) -> str:
    return next(name for name in header if name != "__metadata__")


def renamed(header: dict[str, Any]) -> None:
    header["somebody.else"] = header.pop(first_tensor(header))


def unshaped(header: dict[str, Any]) -> None:
    del header[first_tensor(header)]["shape"]


FIT = "the config does not fit the weights: the file "
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "config missing": (gone("config.json"), "config.json", "is missing"),
    "config cut": (cut("config.json", 0.5), "config.json", "cannot be read as JSON"),
    "config empty": (written("config.json", b""), "config.json", "cannot be read as JSON"),
    "config bytes": (written("config.json", b"\xff\xfe\x00"), "config.json", "cannot be read"),
    "config list": (written("config.json", b"[1]"), "config.json", "should hold keys and values"),
    "config deep": (written("config.json", b"[" * 99999), "config.json", "cannot be read as JSON"),
    "other model": (edited("config.json", model_type="llava"), "config.json", "'llava'"),
    "no slots": (edited("config.json", slots=None), "config.json", "'slots' is missing"),
    "unknown slot": (
        edited("config.json", slots__anchors__type="cls_top"),
        "one",
        "there is no anchors 'cls_top'",
    ),
    "wrong slot": (
        edited("config.json", slots__language__width="wide"),
        "one",
        "slots.language.width",
    ),
    "newer format": (
        edited("config.json", eramv_format=99, eramv_lab="9.1"),
        "config.json",
        r"eramv_lab 9\.1 in format 99.*pip install 'eramv-lab>=9\.1'",
    ),
    "odd format": (edited("config.json", eramv_format="x"), "config.json", "whole number"),
    "weights elsewhere": (
        edited("config.json", transformers_weights="w.bin"),
        "config.json",
        "pickles are never read",
    ),
    "generation config": (
        written("generation_config.json", b"{"),
        "generation_config.json",
        "JSON",
    ),
    "no weights": (gone(SAFE), SAFE, "is missing"),
    "pickle beside": (
        pickled("pytorch_model.bin"),
        SAFE,
        r"is missing; pytorch_model\.bin are pickles",
    ),
    "other pickle": (pickled("weights.pt", legacy=True), SAFE, r"weights\.pt are pickles"),
    "pickle inside": (pickled(SAFE), SAFE, "is a pickle under another name"),
    "old pickle inside": (pickled(SAFE, legacy=True), SAFE, "is a pickle under another name"),
    "weights empty": (written(SAFE, b""), SAFE, "is cut off: 0 bytes"),
    "weights a few bytes": (written(SAFE, b"\x01\x02"), SAFE, "is cut off: 2 bytes"),
    "header cut": (cut(SAFE, 0.01), SAFE, "no safetensors file, or cut off"),
    "data cut": (cut(SAFE, 0.9), SAFE, "cut off or damaged"),
    "data appended": (
        lambda folder: written(SAFE, (folder / SAFE).read_bytes() + b"x")(folder),
        SAFE,
        "cut off or damaged",
    ),
    "text": (written(SAFE, b"<html>not found</html>"), SAFE, "is no safetensors file"),
    "git-lfs pointer": (
        written(SAFE, b"version https://git-lfs.github.com/spec/v1\n"),
        SAFE,
        "lfs",
    ),
    "no tensors": (
        written(SAFE, (2).to_bytes(8, "little") + b"{}"),
        SAFE,
        "holds no tensors",
    ),
    "header a list": (written(SAFE, (2).to_bytes(8, "little") + b"[]"), SAFE, "header"),
    "header no JSON": (written(SAFE, (2).to_bytes(8, "little") + b"{{"), SAFE, "cannot be read"),
    "header without shape": (header_changed(unshaped), SAFE, "no safetensors header"),
    "tensor renamed": (header_changed(renamed), "one", FIT + "lacks .*\n.*knows no somebody.else"),
    "more layers": (
        edited("config.json", slots__language__layers=5),
        "one",
        FIT + r"lacks language_model\.layers\.4\.input_layernorm\.weight, .* and 5 more",
    ),
    "fewer layers": (
        edited("config.json", slots__language__layers=3),
        "one",
        FIT + "has, and the config knows no",
    ),
    "other width": (
        edited("config.json", slots__language__ffn=64),
        "one",
        r"in another shape language_model\.layers\.0\.mlp\.down_proj\.weight \[32, 40\], the "
        r"config's is \[32, 64\]",
    ),
    "other words": (
        edited("config.json", slots__language__vocab=81),
        "one",
        r"\[80, 32\], the config's is \[81",
    ),
    "other band": (edited("config.json", slots__band__layers=[1, 3]), "one", r"layers\.3\.band"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_by_file_and_reason(
    name: str, copied: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
):
    damage, file, why = DAMAGES[name]
    folder = copied("one")
    damage(folder)
    with pytest.raises(UserError, match=f"(?s){why}") as refused:
        EramvForConditionalGeneration.from_pretrained(folder)
    assert refused.value.exit_code == 2
    assert str(folder / file if file != "one" else folder) in str(refused.value)
    assert not OPENED and "LOAD REPORT" not in capfd.readouterr().err


SHARDS: dict[str, tuple[Damage, str, str]] = {
    "index cut": (cut(INDEX, 0.5), INDEX, "cannot be read as JSON"),
    "index empty": (edited(INDEX, weight_map={}), INDEX, "has no weight_map"),
    "index odd": (edited(INDEX, weight_map={"a": 3}), INDEX, "has no weight_map"),
    "shard elsewhere": (
        edited(INDEX, weight_map={"a": "../x.safetensors"}),
        INDEX,
        "no safetensors file beside it",
    ),
    "shard a pickle": (
        edited(INDEX, weight_map={"a": "x.bin"}),
        INDEX,
        "no safetensors file beside",
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_index_is_refused(name: str, copied: Callable[[str], Path]):
    damage, file, why = SHARDS[name]
    folder = copied("shards")
    damage(folder)
    with pytest.raises(UserError, match=why) as refused:
        EramvForConditionalGeneration.from_pretrained(folder)
    assert str(folder / file) in str(refused.value)


def test_every_damaged_shard_is_told(copied: Callable[[str], Path]):
    folder = copied("shards")
    one, two, three, *_ = sorted(folder.glob("*.safetensors"))
    one.unlink()
    cut(two.name, 0.7)(folder)
    shutil.copyfile(folder / three.with_name(_[0].name), three)
    with pytest.raises(UserError) as refused:
        EramvForConditionalGeneration.from_pretrained(folder)
    text = str(refused.value)
    assert f"{one}: is missing" in text and f"{two}: is " in text
    assert f"{three}: lacks" in text and "promises" in text


def test_what_is_whole_still_loads(copied: Callable[[str], Path], monkeypatch: Any):
    folder, shards = copied("one"), copied("shards")
    auto: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    assert auto.lm_head.weight.dtype == torch.bfloat16
    model, info = EramvForConditionalGeneration.from_pretrained(shards, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))  # beside: never looked at
    nested = shutil.copytree(folder, folder / "deeper")
    again = EramvForConditionalGeneration.from_pretrained(folder, subfolder=nested.name)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    edited("config.json", eramv_format=None, eramv_lab=None)(
        folder
    )  # as before formats had numbers
    assert EramvForConditionalGeneration.from_pretrained(folder).config.eramv_format == 1
    edited("config.json", slots__language__ffn=64)(folder)
    other = EramvForConditionalGeneration.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert other.language_model.layers[0].mlp.up_proj.weight.shape[0] == 64
    assert not OPENED


def test_a_resized_model_comes_back(copied: Callable[[str], Path], tmp_path: Path):
    model = EramvForConditionalGeneration.from_pretrained(copied("one"))
    model.resize_token_embeddings(90)
    model.save_pretrained(tmp_path / "wide")
    again = EramvForConditionalGeneration.from_pretrained(tmp_path / "wide")
    assert again.lm_head.weight.shape[0] == 90 == again.dims.language.vocab
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("place", ["/nowhere/at/all", "nobody/nothing-of-the-kind"])
def test_what_is_not_there_is_told(place: str):
    for cls in (EramvForConditionalGeneration, EramvProcessor):
        with pytest.raises(UserError, match=place):
            cls.from_pretrained(place)


def test_pickles_are_not_read_on_demand_either(whole: Path):
    with pytest.raises(UserError, match="pickles are never read"):
        EramvForConditionalGeneration.from_pretrained(whole / "one", use_safetensors=False)


def test_transformers_that_is_too_old_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard.transformers, "__version__", "5.22.1")
    with pytest.raises(UserError, match=r"5\.22\.1 is too old.*pip install 'transformers>=5\.23'"):
        EramvForConditionalGeneration.from_pretrained(whole / "one")


PROCESSORS: dict[str, tuple[Damage, str, str]] = {
    "processor missing": (gone("processor_config.json"), "processor_config.json", "is missing"),
    "processor cut": (cut("processor_config.json", 0.5), "processor_config.json", "JSON"),
    "tokenizer cut": (cut("tokenizer.json", 0.5), "tokenizer.json", "cannot be read as JSON"),
    "tokenizer config": (written("tokenizer_config.json", b"3"), "tokenizer_config.json", "keys"),
    "no tokenizer": (gone("tokenizer.json"), "tokenizer.json", "missing"),
    "other tokenizer": (written("tokenizer.json", b"{}"), "tokenizer.json", "not a tokenizer"),
    "prompt": (edited("processor_config.json", prompt__type="first"), "one", "no prompt 'first'"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_damaged_processor_is_refused(name: str, copied: Callable[[str], Path]):
    damage, file, why = PROCESSORS[name]
    folder = copied("one")
    damage(folder)
    with pytest.raises(UserError, match=why) as refused:
        EramvProcessor.from_pretrained(folder)
    assert str(folder / file if file != "one" else folder) in str(refused.value)


def test_auto_classes_refuse_too(copied: Callable[[str], Path]):
    folder = copied("one")
    cut(SAFE, 0.5)(folder)
    with pytest.raises(UserError, match=SAFE):
        AutoModelForImageTextToText.from_pretrained(folder)
    cut("tokenizer.json", 0.5)(folder)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        AutoProcessor.from_pretrained(folder)
