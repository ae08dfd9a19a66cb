"""data/eramv-tiny is what its card says: its bytes, its recipe, its answers."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import eramv_lab.model  # noqa: F401
from eramv_lab.data.world.questions import questions_of
from eramv_lab.data.world.scene import make_scene
from eramv_lab.evaluate.statistics import wilson
from eramv_lab.export.files import verify
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.recipe.schema import parse_data

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "eramv-tiny"


def told() -> dict[str, Any]:
    """What the card says of all questions: accuracy, low, high, n."""
    data = ModelCard((FOLDER / "README.md").read_text()).data
    (found,) = [one for one in data.eval_results or [] if one.metric_name == "all"]
    return {"accuracy": found.metric_value, **(found.metric_args or {})}


def right(images: int) -> tuple[int, int]:
    """Questions about the first test scenes, drawn anew: (right answers, questions)."""
    recipe = yaml.safe_load((FOLDER / "recipe.yaml").read_text())
    data = parse_data(recipe["data"], [])
    assert data is not None
    model = AutoModelForImageTextToText.from_pretrained(FOLDER).eval()
    processor = AutoProcessor.from_pretrained(FOLDER)
    score = asked = 0
    for first in range(0, images, 20):
        rows = [
            (Image.fromarray(make_scene(data.world, "test", number).image), question)
            for number in range(first, min(first + 20, images))
            for question in questions_of(data.world, "test", number)
        ]
        pictures, questions = zip(*rows, strict=True)
        text = [processor.write(one.text) for one in questions]
        given = processor(images=list(pictures), text=text)
        out = model.generate(**given, max_new_tokens=2, do_sample=False)
        new = out[:, given["input_ids"].shape[1] :]
        said = processor.batch_decode(new, skip_special_tokens=True)
        score += sum(a.strip() == one.answer for a, one in zip(said, questions, strict=True))
        asked += len(rows)
    return score, asked


def test_it_is_small_whole_and_of_no_machine() -> None:
    verify(FOLDER)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 12e6
    for file in FOLDER.rglob("*"):
        if file.suffix in (".json", ".yaml", ".md", ".jinja"):
            assert not re.search(r"[\s\"'(]/(home|root|tmp|work|mnt|Users)/", file.read_text()), (
                file
            )


def test_its_recipe_is_the_one_that_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (shipped,) = load_recipe("experiments/eramv_tiny.yaml").arms.values()
    (inside,) = load_recipe(FOLDER / "recipe.yaml").arms.values()
    assert inside.hash == shipped.hash
    card = (FOLDER / "README.md").read_text()
    assert f"recipe `{shipped.hash}`" in card
    assert "python -m eramv_lab fit experiments/eramv_tiny.yaml" in card


def test_the_cards_code_runs_and_prints_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    card = Path("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    assert said.getvalue().strip() == code.rstrip().rpartition("# ")[2]


def test_it_answers_as_the_card_says() -> None:
    score, asked = right(40)
    low, high = wilson(score, asked)
    assert asked == 320 and low <= told()["high"] and high >= told()["low"], score / asked


@pytest.mark.slow
def test_it_meets_the_cards_accuracy_on_all_that_was_held_out() -> None:
    score, asked = right(300)
    card = told()
    assert asked == card["n"] and card["low"] <= score / asked <= card["high"]
    assert score / asked == pytest.approx(card["accuracy"], abs=0.003)
