"""Answers are right and unique, words are known, the mix is kept."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from eramv_lab.data.world.config import TYPES, WorldConfig
from eramv_lab.data.world.questions import Question, ask, ask_about, questions_of
from eramv_lab.data.world.scene import Object, Scene, make_scene
from eramv_lab.data.world.vocabulary import (
    COLOURS,
    IDS,
    MORE_SHAPES,
    SHAPES,
    SPECIALS,
    WORDS,
    encode,
)

ALL = WorldConfig(mix={name: 1.0 for name in TYPES})
NEW = WorldConfig(mix=ALL.mix, shapes=("star", "cross", *MORE_SHAPES))


def answers(question: Question, scene: Scene) -> set[str]:
    """Every answer that the scene allows, found from the text alone."""
    words = question.text.split()
    things = scene.objects

    def named(colour: str, shape: str) -> list[Object]:
        return [o for o in things if (o.colour, o.shape) == (colour, shape)]

    match words:
        case ["what", "digit", "in", colour, shape]:
            return {o.digit for o in named(colour, shape)}
        case ["color", "of", "digit", digit]:
            return {o.colour for o in things if o.digit == digit}
        case ["shape", "of", "digit", digit]:
            return {o.shape for o in things if o.digit == digit}
        case ["greater" | "smaller" as which, c1, s1, "or", c2, s2]:
            one, other = named(c1, s1), named(c2, s2)
            best = max if which == "greater" else min
            assert one[0].digit != other[0].digit
            return {str(best(int(one[0].digit), int(other[0].digit)))}
        case ["is", "there", "a", colour, shape]:
            return {"yes" if named(colour, shape) else "no"}
        case ["how", "many", word, "objects"]:
            return {str(sum(word in (o.colour, o.shape) for o in things))}
        case ["what", "digit", *place, "the", colour, shape]:
            step = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}[place[0]]
            row, column = named(colour, shape)[0].cell
            return {o.digit for o in things if o.cell == (row + step[0], column + step[1])}
        case ["which", "objects", "are", colour]:
            some = [o for o in things if o.colour == colour]
            some.sort(key=lambda o: (*SHAPES, *MORE_SHAPES).index(o.shape))
            return {" ".join(f"{o.shape} {o.digit}" for o in some)}
    raise AssertionError(question.text)


@pytest.mark.parametrize("world", [ALL, NEW], ids=["default shapes", "new shapes"])
def test_every_answer_is_right_and_the_only_one(world: WorldConfig) -> None:
    rng = np.random.default_rng(0)
    asked: Counter[str] = Counter()
    for index in range(100):
        scene = make_scene(world, "train", index)
        for question in ask(scene, world, rng, 16):
            assert answers(question, scene) == {question.answer}, question
            asked[question.type] += 1
    assert set(asked) == set(TYPES) and min(asked.values()) > 50


def test_every_word_is_in_the_vocabulary() -> None:
    rng = np.random.default_rng(1)
    for index in range(50):
        world = ALL if index % 2 else NEW
        for question in ask(make_scene(world, "train", index), world, rng, 16):
            assert " ".join(WORDS[i] for i in encode(question.answer)) == question.answer
            assert min(encode(question.text)) >= len(SPECIALS)
    assert len(set(WORDS)) == len(WORDS) == len(IDS) and WORDS[:5] == SPECIALS


def test_captions_tell_the_same_facts_in_several_orders() -> None:
    world = WorldConfig(mix={"caption": 1.0})
    seen: set[int] = set()
    for index in range(30):
        scene = make_scene(world, "train", index)
        for question in ask(scene, world, np.random.default_rng(index), 4):
            told = (question.answer, *question.references)
            assert len(set(told)) == len(told)
            assert len({tuple(sorted(text.split())) for text in told}) == 1
            seen.add(len(told))
            things = [o for o in scene.objects if o.colour == question.text.split()[-1]]
            assert " ".join(f"{o.shape} {o.digit}" for o in things) in told  # in reading order
    assert seen == {1, 2, 3}


def test_stored_questions_are_fixed() -> None:
    world = WorldConfig()
    assert questions_of(world, "test", 5) == questions_of(world, "test", 5)
    assert questions_of(world, "test", 5) != questions_of(world, "test", 6)
    assert len(questions_of(WorldConfig(questions=3), "test", 5)) == 3


def test_the_mix_is_kept() -> None:
    world = WorldConfig()
    asked = Counter(q.type for i in range(300) for q in questions_of(world, "train", i))
    for name, share in world.mix.items():
        assert asked[name] / 2400 == pytest.approx(share, abs=0.04)


def test_a_mix_that_cannot_be_asked_is_an_error() -> None:
    one = (Object("red", "star", "4", (0, 0), (0, 0, 20, 20)),)
    with pytest.raises(ValueError, match="compare"):
        ask_about(one, WorldConfig(mix={"compare": 1.0}), np.random.default_rng(0), 1)


def test_absent_pairs_are_hard() -> None:
    world = WorldConfig(mix={"exist": 1.0})
    for index in range(50):
        scene = make_scene(world, "train", index)
        for question in ask(scene, world, np.random.default_rng(index), 8):
            colour, shape = question.text.split()[-2:]
            assert colour in COLOURS and shape in SHAPES
            assert any(o.colour == colour for o in scene.objects)
            assert any(o.shape == shape for o in scene.objects)
