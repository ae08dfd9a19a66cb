"""The card says what the fit says, in the form that the hub reads."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from eramv_lab.export.card import Card
from eramv_lab.export.release import _scored, find_run
from eramv_lab.report.runs import Run


@pytest.fixture(scope="module")
def card(made: Path) -> Card:
    run = find_run("small", made)
    seeds = {0: float(run.row["accuracy"])}
    return Card(name="tiny-one", run=run, scored=_scored(run), seeds=seeds, files={"a": "f" * 64})


def changed(card: Card, **result: Any) -> Card:
    run = Run(card.run.folder, {**card.run.result, **result})
    return dataclasses.replace(card, run=run)


def test_the_hub_reads_the_same_numbers_back(card: Card) -> None:
    data = ModelCard(card.text()).data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert data.pipeline_tag == "image-text-to-text" and data.language == "en"
    assert data.get("datasets") is None
    rates = {one.metric_name: one for one in data.eval_results or []}
    row, types = card.run.row, card.run.result["per_type"]
    assert list(rates) == ["all", *sorted(types)]
    assert rates["all"].metric_value == pytest.approx(row["accuracy"], abs=1e-4)
    for name, told in types.items():
        assert rates[name].metric_value == pytest.approx(told["accuracy"], abs=1e-4)
        args = rates[name].metric_args or {}
        assert args["n"] == told["n"] and args["low"] <= told["accuracy"] <= args["high"]


def test_its_tables_have_every_slot_price_and_file(card: Card) -> None:
    text = card.text()
    for slot in card.recipe["model"]:
        assert f"| `{slot}` |" in text
    assert "`cls_topk`: cls true, count 4" in text and f"| `a` | `{'f' * 64}` |" in text
    for title in ("prefill", "training", "parameters", "trainable", "KV", "latency", "peak"):
        assert f"| {title} " in text
    assert "one image and 64 text tokens" in text and "on `cpu` in float32, batch 1" in text


def test_pretrained_parts_have_their_own_licence(card: Card) -> None:
    recipe = dict(card.recipe)
    recipe["model"] = recipe["model"] | {
        "vision": {"type": "hf", "path": "openai/clip"},
        "language": {"type": "hf", "path": "/home/somebody/llama"},
    }
    recipe["data"] = {"type": "shards", "shards": {"path": "/home/somebody/mix"}}
    text = changed(card, recipe=recipe).text()
    data = ModelCard(text).data
    assert data.license == "other" and data.base_model == ["openai/clip", "llama"]
    assert "made world" not in text and "somebody" not in text
    assert "the pretrained parts" in text


def test_a_start_whose_licence_is_not_known_is_not_given_ours(card: Card) -> None:
    for start, named in (("owner/model", ["owner/model"]), ("data", None)):  # the hub's; a folder
        recipe = dict(card.recipe) | {"base": {"model": start}}
        data = ModelCard(changed(card, recipe=recipe).text()).data
        assert (data.license, data.base_model) == ("other", named)


def test_only_a_recipe_that_reads_back_is_said_to_reproduce(card: Card) -> None:
    assert "same bytes" not in card.text()
    line = "python -m eramv_lab fit x.yaml"
    assert f"    {line}\n" in dataclasses.replace(card, command=line).text()


def test_further_sets_have_a_line(card: Card) -> None:
    rate = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 1200}
    text = changed(card, also={"old": rate | {"per_type": {}}}).text()
    assert "| further set `old` | 0.500 | 0.400 to 0.600 | 1,200 |" in text
