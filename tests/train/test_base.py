"""A base of a few steps is built whole, again the same, with the masks it claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from eramv_lab.data.world.vocabulary import EOS, IDS, WORDS, encode
from eramv_lab.errors import UserError
from eramv_lab.slots.vision.tiny import TinyVision
from eramv_lab.train.base.batches import IGNORE, draw_batch, tower_states
from eramv_lab.train.base.build import build_base
from eramv_lab.train.base.language import BaseModel, looks
from eramv_lab.train.base.recipe import PhaseRecipe, parse_base

RECIPE = Path(__file__).parents[2] / "experiments" / "pretrain.yaml"


def small() -> dict:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["tower"] |= {"steps": 2, "batch": 2}
    recipe["phases"] = [
        {"steps": 2, "batch": 2, "objects": [2, 4], "blocked": [1, 3]},
        {"steps": 1, "batch": 2, "objects": [4, 12], "all_tokens": 1.0},
    ]
    return recipe | {"scenes": 8, "held_out": 4}


def test_a_base_is_built_whole_and_again_the_same(tmp_path: Path) -> None:
    facts = build_base(small(), 0, tmp_path / "one", progress=False)
    told: list[tuple[int, int, str]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))  # whoever calls may have more, or fewer
    build_base(small(), 0, tmp_path / "two", progress=lambda *step: told.append(step))
    assert torch.get_num_threads() == 3 - min(before, 2)
    torch.set_num_threads(before)
    assert [step[:2] for step in told] == [(number, 5) for number in range(1, 6)]
    build_base(small(), 1, tmp_path / "other", progress=False)
    assert json.loads((tmp_path / "one" / "base.json").read_text()) == facts
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other", "two"]
    assert set(facts["accuracy"]) == {"all", "color", "compare", "digit", "shape"}
    for part in ("vision", "connector", "language"):
        one, two, other = (
            load_file(tmp_path / name / f"{part}.safetensors") for name in ("one", "two", "other")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_packed_questions_do_not_see_each_other_and_blocked_ones_not_the_image() -> None:
    recipe = parse_base(small())
    torch.manual_seed(0)
    store = tower_states(TinyVision(recipe.vision).eval(), recipe.world, "base", 4)
    model = BaseModel(recipe.language, recipe.connector, recipe.vision.dims()).eval()
    phase = PhaseRecipe(steps=1, batch=2, objects=(2, 4))
    batch = draw_batch(store, phase, recipe.world, np.random.default_rng(0))
    with torch.no_grad():
        together = model(batch)
        blocked = model(batch, looks=())
        batch.words_BQL[:, 1:] = 7
        apart = model(batch)
        torch.testing.assert_close(together[:, 0], apart[:, 0])
        assert not torch.allclose(together[:, 1], apart[:, 1])
        batch.words_BQL[:, 1:] = batch.words_BQL[:, :1]
        batch.visual_BRV.add_(torch.randn_like(batch.visual_BRV))
        torch.testing.assert_close(model(batch, looks=())[:, 0], blocked[:, 0])


def test_layers_that_look_are_drawn_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    phase = PhaseRecipe(steps=1, batch=1, objects=(2, 4), blocked=(1, 1), looking=0.5)
    drawn = [looks(phase, 6, rng) for _ in range(400)]
    assert all(drawn) and {n for some in drawn for n in some} == {1, 2, 3, 4, 5}
    for layer in range(1, 6):
        assert sum(layer in some for some in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    assert all(len(looks(replace(phase, looking=0.0), 6, rng)) == 1 for _ in range(20))
    assert looks(replace(phase, looking=1.0), 6, rng) == [1, 2, 3, 4, 5]


def test_captions_are_learnt_word_by_word() -> None:
    recipe = parse_base(small() | {"world": {"mix": {"caption": 1.0, "digit": 1.0}}})
    torch.manual_seed(0)
    store = tower_states(TinyVision(recipe.vision).eval(), recipe.world, "base", 4)
    phase = PhaseRecipe(steps=1, batch=4, objects=(4, 12))
    batch = draw_batch(store, phase, recipe.world, np.random.default_rng(0))
    for some, words_QL, labels_QL in zip(
        batch.questions, batch.words_BQL, batch.labels_BQL, strict=True
    ):
        for question, words_L, labels_L in zip(some, words_QL, labels_QL, strict=True):
            said, told = question.answer.split(), labels_L[labels_L != IGNORE].tolist()
            assert told == [*encode(question.answer), IDS[EOS]]
            first = int((labels_L != IGNORE).nonzero()[0])
            assert WORDS[words_L[first]] == "answer"  # the row that says the first word
            assert words_L[first + 1 :][: len(said)].tolist() == told[:-1]


def test_every_problem_of_a_recipe_is_reported() -> None:
    recipe = small()
    recipe["world"]["sise"] = 3
    recipe["tower"]["steps"] = "many"
    with pytest.raises(UserError) as error:
        parse_base(recipe | {"phases": [], "senes": 3, "scenes": 0})
    assert len(error.value.problems) == 5


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"blocked": [0, 4], "blocked_last": [0, 2]}, "blocked"),
        ({"looking": 1.5}, "looking"),
        ({"objects": [1, 3]}, "objects"),
        ({"patches": [3, 2]}, "patches"),
        ({"batch": 0}, "batch"),
    ],
)
def test_a_phase_that_cannot_be_is_named(keys: dict[str, object], word: str) -> None:
    recipe = small()
    recipe["phases"][0] |= keys
    with pytest.raises(UserError, match=word):
        parse_base(recipe)


def test_a_base_is_taught_the_six_shapes() -> None:
    recipe = small()
    recipe["world"] = {**recipe["world"], "shapes": ["star", "thing"], "objects": [2, 8]}
    with pytest.raises(UserError, match=r"world\.shapes: a base is taught the six shapes"):
        parse_base(recipe)
