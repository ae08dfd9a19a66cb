"""Arms that start from a released model: found, held against the arm, known by their weights."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import Recipe, load_recipe

START = "base: {recipe: none, model: models/first}\n"


@pytest.fixture
def model(write) -> Path:
    """A folder with the config of `small.yaml` and weights that nobody reads here."""
    slots = load_recipe("small.yaml").arms["main"].spec.to_plain()
    folder = Path("models/first")
    folder.mkdir(parents=True)
    config = {"model_type": "eramv", "slots": slots}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def load(write, text: str = START, name: str = "start.yaml") -> Recipe:
    write(name, f"extends: {'../' * name.count('/')}small.yaml\n{text}")
    return load_recipe(name)


def problems(write, text: str = START) -> list[tuple[str | None, str]]:
    with pytest.raises(UserError) as caught:
        load(write, text)
    assert all(p.file == "start.yaml" and p.line for p in caught.value.problems)
    return [(p.key, p.message) for p in caught.value.problems]


def test_an_arm_starts_from_a_model(write, model):
    arm = load(write).arms["main"]
    assert arm.released is not None and arm.base_recipe is None
    assert arm.plain["base"]["model"] == arm.released.path == arm.released.folder == "models/first"
    assert arm.hash != load_recipe("small.yaml").arms["main"].hash
    write("again.yaml", yaml.safe_dump(arm.plain, sort_keys=False))
    assert load_recipe("again.yaml").arms["main"].hash == arm.hash


def test_its_path_is_relative_to_the_file_that_says_so(write, model):
    text = "base: {recipe: none, model: ../models/first}\n"
    arm = load(write, text, "deep/start.yaml").arms["main"]
    assert arm.plain["base"]["model"] == "models/first"
    over = load_recipe("deep/start.yaml", ["base.model=models/first"]).arms["main"]
    assert over.hash == arm.hash


def test_other_weights_are_another_arm_and_another_place_is_not(write, model):
    before = load(write).arms["main"]
    shutil.copytree(model, "elsewhere")
    moved = load(write, "base: {recipe: none, model: elsewhere}\n").arms["main"]
    assert moved.hash == before.hash
    (model / "model.safetensors").write_bytes(b"other weights")
    assert load(write).arms["main"].hash != before.hash


def test_weights_in_several_files_are_known_by_all_of_them(write, model):
    whole = load(write).arms["main"].hash
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model-1.safetensors").write_bytes(b"wei")
    assert problems(write) == [
        (
            "base.model",
            "models/first: model.safetensors.index.json names model-2.safetensors, "
            "which is not there",
        )
    ]
    (model / "model-2.safetensors").write_bytes(b"ghts")
    assert load(write).arms["main"].hash != whole


def test_tower_and_language_model_must_be_the_same(write, model):
    text = START + "model.language: {type: tiny, layers: 7}\nmodel.vision.width: 32\n"
    told = problems(write, text)
    assert [key for key, _ in told] == ["model.vision.width", "model.language.layers"]
    assert told[1][1] == "is 7, but the model models/first, where this starts, has 6"


def test_other_slots_may_differ(write, model):
    text = START + "model.band: {start: 3, length: 1}\nmodel.bridge: none\n"
    assert load(write, text).arms["main"].released is not None


BROKEN = {
    "no folder": (lambda f: shutil.rmtree(f), "no folder models/first"),
    "no config": (lambda f: (f / "config.json").unlink(), "models/first: no config.json"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json is not an object"),
    "a llava": (
        lambda f: (f / "config.json").write_text('{"model_type": "llava"}'),
        "`export --from-llava` makes one of it",
    ),
    "no slots": (
        lambda f: (f / "config.json").write_text('{"model_type": "eramv", "slots": {}}'),
        "does not say what fills the slots vision and language",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no model.safetensors, and pytorch_model.bin is never unpickled",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_no_model_is_refused(write, model, name):
    breaks, message = BROKEN[name]
    breaks(model)
    ((key, told),) = problems(write)
    assert key == "base.model" and message in told


def test_all_that_is_wrong_with_a_folder_is_told_at_once(write, model):
    for file in model.iterdir():
        file.unlink()
    told = [message for _, message in problems(write)]
    assert told == ["models/first: no config.json", "models/first: no model.safetensors"]


def test_an_arm_starts_from_one_thing(write, model):
    text = "base: {recipe: pretrain.yaml, model: models/first}\n"
    told = "an arm starts from one thing: with base.model write base.recipe: none"
    assert problems(write, text) == [("base.recipe", told)]
    text = START + "arms:\n  a: {}\n  b: {base.arm: a}\n"
    ((key, told),) = problems(write, text)
    assert key == "base.arm" and told.endswith("write base.arm: none (arm b)")
    text = START + "arms:\n  a: {}\n  b: {base.arm: a, base.model: none}\n"
    assert load(write, text).arms["b"].parent is not None
