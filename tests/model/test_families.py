"""Towers and language models of every family together: batches of all kinds in, answers out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub
import pytest
import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys

from eramv_lab.data.collate import Collator, repeat_images
from eramv_lab.data.shards import Asked
from eramv_lab.data.words import words_of
from eramv_lab.evaluate.generate import evaluate, queries
from eramv_lab.model import EramvForConditionalGeneration, build_model

TALK = [
    Asked("a-0", "what is the color of the cat?", "it is red.", "llava"),
    Asked("a-1", "and the dog?", "blue", "llava", follows=True),
]
ONE = [Asked("b-0", "what is in the picture?", "two red cats on the mat", "llava")]
ALONE = [Asked("c-0", "what is a cat?", "it is a dog.", "llava")]
PAIRS = [
    ("clip", "llama", "image_first"),
    ("clip", "qwen2", "question_first"),
    ("siglip", "mistral", "question_first"),
    ("siglip", "qwen3", "image_first"),
    ("dinov2", "qwen2", "image_first"),
    ("dinov2", "llama", "question_first"),
]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family by its name, made when it is first asked for."""
    root = tmp_path_factory.mktemp("families")
    makers: Any = hub.TOWERS | hub.LANGUAGES

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else makers[name](root / name)

    return folder


def spec_for(
    folder_of: Callable[[str], Path], tower: str, language: str, order: str, **more: Any
) -> Any:
    anchors = {"type": "norm" if tower == "siglip" else "cls_topk", "count": 4}
    section = {
        "vision": {"type": "hf", "path": str(folder_of(tower)), "feature_layer": -1},
        "language": {"type": "hf", "path": str(folder_of(language))},
        "prompt": {"type": order, "template": "chat"},
        "band": {"start": 1, "length": 1},
    }
    return spec_of(with_keys(TINY, **{**section, "anchors": anchors, **more}))


def made(folder_of: Any, *names: str, **more: Any) -> tuple[Any, Collator]:
    spec = spec_for(folder_of, *names, **more)
    words = words_of(spec)
    model = build_model(spec, image_token_id=words.image, stops=words.stops).eval()
    return model, Collator(spec.prompt, model.visual_rows, words=words)


def pixels(images: int) -> torch.Tensor:
    shape = (images, 3, hub.SIDE, hub.SIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, batch: dict[str, Any], images: int) -> torch.Tensor:
    return model(**repeat_images(batch | ({"pixel_values": pixels(images)} if images else {}))).loss


@pytest.mark.parametrize(("tower", "language", "order"), PAIRS)
def test_train_answer_save(
    tower: str, language: str, order: str, folder_of: Any, tmp_path: Path
) -> None:
    model, collator = made(folder_of, tower, language, order)
    batch = collator([TALK, ALONE, ONE], [True, False, True])
    assert batch["image_counts"] == (1, 0, 1) and batch["image_index"].tolist() == [0, 1]
    model.train()
    loss = loss_of(model, batch, 2)
    loss.backward()
    idle = ("post_layernorm", "mask_token", "vision_tower.tower.layernorm")  # behind the features
    for name, parameter in model.named_parameters():
        if not any(part in name for part in idle):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for part in ("vision_tower", "connector", "language_model.embed_tokens"):
        assert any(
            p.grad is not None and p.grad.abs().sum() > 0
            for n, p in model.named_parameters()
            if n.startswith(part)
        )
    model.eval()

    def ask(one: Any) -> Any:
        asked = [*queries(0, "a", TALK), *queries(1, "c", ALONE, False), *queries(2, "b", ONE)]
        return evaluate(
            one, asked, lambda n: {"pixel_values": pixels(3)[list(n)]}, collator, max_new_tokens=4
        )

    said = ask(model)
    assert [p.key for p in said.predictions] == ["a-0", "a-1", "c-0", "b-0"]
    assert all(0 < p.nll < 20 for p in said.predictions)
    model.save_pretrained(tmp_path)
    again: Any = EramvForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert ask(again) == said
    assert again.generation_config.suppress_tokens == [collator.words.image]
    assert again.generation_config.eos_token_id == list(collator.words.stops)


@pytest.mark.parametrize("language", ["llama", "qwen2", "qwen3"])
def test_the_likelihood_of_an_answer_is_that_of_its_row_in_training(
    language: str, folder_of: Any
) -> None:
    model, collator = made(folder_of, "clip", language, "image_first")
    asked = [*queries(0, "a", TALK), *queries(1, "b", ONE)]
    said = evaluate(
        model, asked, lambda n: {"pixel_values": pixels(2)[list(n)]}, collator, max_new_tokens=2
    )
    for query, told in zip(asked, said.predictions, strict=True):
        batch = collator([query.turns]) | {"pixel_values": pixels(2)[query.number][None]}
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            logits = model(**repeat_images(batch)).logits[0]
        start = len(collator.prompt_ids(query.turns))
        rows = range(start, start + len(collator.answer_ids(query.turns)))
        assert collator.words.text(labels[start : rows.stop].tolist()) == query.asked.answer
        costs = [-logits[row - 1].log_softmax(-1)[labels[row]].item() for row in rows]
        assert told.nll == pytest.approx(sum(costs) / len(costs), abs=1e-5)


@pytest.mark.parametrize("language", ["llama", "qwen3"])
def test_what_is_learnt_is_answered(language: str, folder_of: Any) -> None:
    model, collator = made(folder_of, "siglip", language, "question_first")
    samples, seen = [TALK, ALONE, ONE], [True, False, True]
    batch = repeat_images(collator(samples, seen) | {"pixel_values": pixels(2)})
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(60):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    places = {0: 0, 2: 1}
    asked = [
        query for i, sample in enumerate(samples) for query in queries(i, str(i), sample, seen[i])
    ]
    said = evaluate(
        model,
        asked,
        lambda numbers: {"pixel_values": pixels(2)[[places[n] for n in numbers]]},
        collator,
        max_new_tokens=24,
    )
    assert [p.prediction for p in said.predictions] == [q.asked.answer for q in asked]
    assert said.rate()["accuracy"] == 1 and said.loss < 0.3


@pytest.mark.parametrize("language", ["llama", "qwen2"])  # an image token beyond the words, within
def test_rows_stand_for_themselves_in_a_batch_of_all_kinds(language: str, folder_of: Any) -> None:
    model, collator = made(folder_of, "clip", language, "image_first")
    samples, seen = [ALONE, TALK, ONE, ALONE], [False, True, True, False]
    batch = repeat_images(collator(samples, seen) | {"pixel_values": pixels(2)})
    image = 0
    with torch.no_grad():
        whole = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        for row, (sample, pictured) in enumerate(zip(samples, seen, strict=True)):
            alone = collator([sample], [pictured])
            if pictured:
                alone["pixel_values"] = pixels(2)[image : image + 1]
                image += 1
            del alone["labels"]
            found = model(**repeat_images(alone)).logits[0]
            torch.testing.assert_close(whole[row, : len(found)], found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", ["nothing", "no pixels", "no features"])
def test_a_batch_of_text_alone(given: str, folder_of: Any) -> None:
    model, collator = made(folder_of, "clip", "llama", "question_first")
    samples = [ALONE, [*ONE, TALK[1]]]
    images: dict[str, Any] = {
        "nothing": {},
        "no pixels": {"pixel_values": pixels(0)},
        "no features": {
            "vision_features": {
                "states": torch.zeros(0, 16, hub.WIDTH),
                "cls": torch.zeros(0, hub.WIDTH),
                "cls_attention": torch.zeros(0, 2, 16),
            }
        },
    }[given]
    batch = collator(samples, [False, False])
    model.train()
    loss = model(**repeat_images(batch | images)).loss
    loss.backward()
    assert loss > 0 and model.lm_head.weight.grad.abs().sum() > 0
    model.eval()
    prompts = collator.prompts(samples, [False, False])
    del prompts["asked"]
    said = model.generate(**repeat_images(prompts | images), max_new_tokens=3)
    assert len(said) == 3 and said.shape[1] > prompts["input_ids"].shape[1]


def test_a_training_batch_that_was_cut_before_its_answers_teaches_nothing(folder_of: Any) -> None:
    model, collator = made(folder_of, "clip", "llama", "image_first")
    cut = Collator(collator.prompt, collator.visual_rows, words=collator.words, max_tokens=9)
    model.train()
    loss = loss_of(model, cut([ONE]), 1)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("language", ["llama", "qwen2"])
def test_packed_conversations_learn_what_they_learn_alone(language: str, folder_of: Any) -> None:
    prompt = {"type": "image_first", "template": "plain"}
    model, collator = made(folder_of, "clip", language, "image_first", prompt=prompt)
    packing = Collator(collator.prompt, collator.visual_rows, words=collator.words, pack=True)
    samples, seen = [[*TALK, *ONE], [*ALONE, ONE[0]]], [True, False]
    packed, single = packing(samples, seen), collator(samples, seen)
    assert len(packed["input_ids"]) == 2 and len(single["input_ids"]) == 4
    assert packed["image_counts"] == (1, 0) and single["image_counts"] == (1, 1, 0, 0)
    assert (packed["labels"] != -100).sum() == (single["labels"] != -100).sum()
    with torch.no_grad():
        one, other = loss_of(model, packed, 1), loss_of(model, single, 1)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_an_image_is_never_said(folder_of: Any) -> None:
    model, collator = made(folder_of, "clip", "qwen2", "image_first")
    image = collator.words.image
    model.lm_head.register_forward_hook(
        lambda _m, _i, logits: logits + 1000 * (torch.arange(hub.VOCAB) == image)
    )
    prompts = collator.prompts([TALK])
    del prompts["asked"]
    inputs = repeat_images(prompts | {"pixel_values": pixels(1)})
    rows = prompts["input_ids"].shape[1]
    said = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
    assert (said[:, rows:] != image).all()
    would = model.generate(**inputs, max_new_tokens=1, suppress_tokens=[])
    assert (would[:, rows:] == image).all()


def test_a_tower_without_cls_says_so_before_the_run(folder_of: Any) -> None:
    names = ("siglip", "llama", "image_first")
    for anchors in ("cls_topk", "progressive"):
        with pytest.raises(AssertionError, match=r"no CLS; .*do without: all, .*norm, pool"):
            spec_for(folder_of, *names, anchors={"type": anchors, "count": 4})
    for keys in ({"anchors": {"type": "pool", "count": 4, "cls": True}}, {"fine": {"cls": True}}):
        with pytest.raises(AssertionError, match=r"(?i)cls: true.*no CLS"):
            spec_for(folder_of, *names, **keys)
