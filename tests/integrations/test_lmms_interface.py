"""lmms-eval's model `eramv` against a stand-in of its interface, so that it is held without it."""

from __future__ import annotations

import importlib
import math
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from integrations.conftest import picture

from eramv_lab.data.world.vocabulary import WORDS
from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration, EramvProcessor

ROOT = Path(__file__).resolve().parents[2]
MODULE = "eramv_lab.integrations.lmms_eval"
GREEDY = {"max_new_tokens": 3, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
ASKED = (
    ("what digit in red star", 1),
    ("greater cyan star or red star", 2),
    ("digit 3", 0),
    ("what digit in red circle", 1),
    ("color of digit 3", 1),
)


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: Any
    token_counts: TokenCounts | None = None


@dataclass
class ModelManifest:
    model_id: str
    simple_class_path: str
    chat_class_path: str


class Base:
    """`lmms_eval.api.model.lmms`, as far as a model sees it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)


@dataclass
class Instance:
    args: tuple[Any, ...]


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, imported over the stand-in."""
    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "GenerationResult": GenerationResult,
            "TokenCounts": TokenCounts,
        },
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    }
    for name, found in parts.items():
        module = ModuleType(name)
        vars(module).update(found)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    module = importlib.import_module(MODULE)
    yield module
    sys.modules.pop(MODULE)


def model_of(lmms: Any, folder: Path, chat: bool = False, **options: Any) -> Any:
    """The model with the documents of ASKED: task `t`, split `test`."""
    made = (lmms.EramvChat if chat else lmms.Eramv)(pretrained=str(folder), device="cpu", **options)
    docs = [
        {"question": question, "images": [picture(10 * n + k) for k in range(images)]}
        for n, (question, images) in enumerate(ASKED)
    ]
    made.task_dict["t"] = {"test": docs}
    return made


def messages_of(doc: dict[str, Any]) -> list[dict[str, Any]]:
    shown = [{"type": "image", "url": image} for image in doc["images"]]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": doc["question"]}]}]


def requests_of(chat: bool = False, settings: dict[str, Any] = GREEDY) -> list[Instance]:
    """A request for each document, the first again with other settings."""
    found = []
    for n, (question, _) in [*enumerate(ASKED), (0, ASKED[0])]:
        given = settings if len(found) < len(ASKED) else settings | {"max_new_tokens": 1}
        two = (messages_of, given) if chat else (given, lambda doc: doc["images"] or None)
        found.append(Instance((question, *two, n, "t", "test")))
    return found


def test_the_entry_point_names_both_classes(lmms):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"eramv": f"{MODULE}:manifest"}
    manifest = lmms.manifest()
    assert manifest.model_id == "eramv"
    for path, simple in ((manifest.simple_class_path, True), (manifest.chat_class_path, False)):
        module, _, name = path.rpartition(".")
        assert module == MODULE and getattr(lmms, name).is_simple is simple


def test_answers_are_the_models_own_in_the_order_asked(lmms, folder):
    model = EramvForConditionalGeneration.from_pretrained(folder)
    processor: Any = EramvProcessor.from_pretrained(folder)
    lm = model_of(lmms, folder)
    expected = []
    for doc in lm.task_dict["t"]["test"]:
        prompt = processor.write(doc["question"], len(doc["images"]))
        inputs = processor(images=doc["images"], text=prompt)
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0]
        width = inputs["input_ids"].shape[1]
        text = processor.tokenizer.decode(ids[width:], skip_special_tokens=True)
        expected.append((text, width, len(ids) - width))
    found = lm.generate_until(requests_of())
    counts = [(f.text, f.token_counts.input_tokens, f.token_counts.output_tokens) for f in found]
    assert counts[:-1] == expected
    assert found[-1].text == found[0].text.split()[0]  # one token is one word
    assert len({text for text, *_ in expected}) > 2


@pytest.mark.parametrize("chat", [False, True])
def test_batches_and_both_interfaces_agree(lmms, folder, chat):
    alone = model_of(lmms, folder).generate_until(requests_of())
    found = model_of(lmms, folder, chat, batch_size=4).generate_until(requests_of(chat))
    assert [f.text for f in found] == [a.text for a in alone]


def test_images_change_answers_and_their_order_does(lmms, folder):
    lm = model_of(lmms, folder)
    request = [Instance(("greater cyan star or red star", " red", lambda d: d, 1, "t", "test"))]
    one, two = picture(1), picture(2)
    scores = []
    for shown in ([one, two], [two, one], [one], []):
        lm.task_dict["t"]["test"][1] = shown
        scores.append(lm.loglikelihood(request)[0].text[0])
    assert len(set(scores)) == 4


def test_likelihoods_are_those_of_the_words_one_by_one(lmms, folder):
    lm = model_of(lmms, folder, batch_size=7)
    words = [word for word in WORDS if not word.startswith("<")]
    for number, (question, _) in enumerate(ASKED[:3]):

        def score(*said: str, question: str = question, number: int = number) -> list[Any]:
            def images(doc: Any) -> Any:
                return doc["images"]

            asked = [Instance((question, f" {one}", images, number, "t", "test")) for one in said]
            return [result.text for result in lm.loglikelihood(asked)]

        first = score(*words)
        rest = 1 - sum(math.exp(-value) for value, _ in first)
        assert 0 <= rest < 0.5  # what the special tokens have
        best = min(range(len(words)), key=lambda n: first[n][0])
        assert [n for n, (_, greedy) in enumerate(first) if greedy] in ([best], [])
        pairs = score(*(f"{words[best]} {word}" for word in words))
        assert all(value > first[best][0] for value, _ in pairs)
        total = sum(math.exp(-value) for value, _ in pairs)
        assert total <= math.exp(-first[best][0]) * (1 + 1e-5)
        assert total > 0.5 * math.exp(-first[best][0])


def test_a_likely_continuation_is_what_is_generated(lmms, folder):
    lm = model_of(lmms, folder)
    given = {"max_new_tokens": 2, "temperature": 0}
    for request in requests_of(settings=given)[:-1]:
        said = lm.generate_until([request])[0]
        if said.token_counts.output_tokens != len(said.text.split()):
            continue  # ended early
        question, _, images, *place = request.args
        asked = Instance((question, lambda doc, text=said.text: text, images, *place))
        assert lm.loglikelihood([asked])[0].text[1] is True


def test_several_rounds_are_refused(lmms, folder):
    with pytest.raises(UserError, match="one round; tasks of several rounds: t"):
        model_of(lmms, folder).generate_until_multi_round(requests_of())


def test_words_that_the_model_has_not_are_told(lmms, folder):
    lm = model_of(lmms, folder)
    request = Instance(("is there an aubergine", GREEDY, lambda doc: None, 2, "t", "test"))
    with pytest.raises(
        UserError, match=r"refuses what is asked in one of t 2: .*from the vocabulary"
    ):
        lm.generate_until([request])


def test_an_adapter_is_laid_on_the_model(lmms, folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    whole = EramvForConditionalGeneration.from_pretrained(folder)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned: Any = get_peft_model(whole, config)  # pyright: ignore[reportArgumentType]
    tuned.save_pretrained(tmp_path)
    merged = tuned.merge_and_unload().language_model.layers[0].self_attn.q_proj
    models = model_of(lmms, folder, adapter=str(tmp_path)), model_of(lmms, folder)
    with torch.no_grad():
        rows = torch.randn(2, merged.in_features)
        own, plain = (m.model.language_model.layers[0].self_attn.q_proj(rows) for m in models)
        torch.testing.assert_close(own, merged(rows))
        assert not torch.allclose(plain, own, atol=1e-3)
