"""Law 4: gradients reach every trainable parameter and no frozen one. Law 2: seeds by path."""

import re
from functools import cache
from typing import Any

import pytest
import torch

from eramv_lab.registry import SLOTS
from laws.settings import CASES, TINY, Case, section_of, setting, with_keys
from laws.whole import BANDED, EACH, SYSTEMS, inputs, model_of, sample

each = pytest.mark.parametrize("name", EACH)


def backward(model: Any) -> None:
    samples = [sample(model, words=6, pictures=(0, 1)), sample(model, pictures=(2,))]
    model(**inputs(model, samples)).loss.backward()


@each
def test_gradients_reach_every_trained_parameter_and_no_frozen_one(name: str):
    model = model_of(SYSTEMS[name]).train()
    model.vision_tower.requires_grad_(False)
    backward(model)
    spec = model.config.spec
    idle = (
        "connector."
        if spec.anchors is None and spec.bridge and spec.bridge.input == "vision"
        else " "
    )
    own = setting(("connector", SLOTS["connector"].of(spec.connector or spec.fine_connector).name))
    for path, weight in model.named_parameters():
        if not weight.requires_grad:
            assert weight.grad is None, path
        elif not path.startswith(idle) and not (own.idle and re.search(own.idle, path)):
            assert weight.grad is not None and weight.grad.any(), path


@pytest.mark.parametrize("name", BANDED)
def test_the_band_learns_alone(name: str):
    model = model_of(SYSTEMS[name]).train()
    model.requires_grad_(False)
    own = [w for path, w in model.named_parameters() if ".band." in path or "shared_bridge" in path]
    if not own:
        pytest.skip("the band has no weights of its own")
    for weight in own:
        weight.requires_grad_()
    backward(model)
    for path, weight in model.named_parameters():
        assert weight.requires_grad == (weight.grad is not None and bool(weight.grad.any())), path


@pytest.mark.parametrize("name", ["bridge.mlp", "bridge.low_rank", "sharing.lora", "flamingo"])
def test_what_starts_at_zero_can_leave_it(name: str):
    model = model_of(SYSTEMS[name], loud=False).train()
    backward(model)
    own = {path: w for path, w in model.named_parameters() if ".band." in path}
    assert any(w.grad is not None and w.grad.any() for w in own.values())


@pytest.mark.parametrize("name", ["bridge.mlp", "vica", "fastv_joint", "qwen3"])
def test_checkpointing_changes_no_gradient(name: str):
    grads: list[dict[str, torch.Tensor]] = []
    for checkpointing in (False, True):
        model = model_of(SYSTEMS[name]).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        backward(model)
        grads.append({p: w.grad for p, w in model.named_parameters() if w.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for path, grad in grads[0].items():
        torch.testing.assert_close(grads[1][path], grad, msg=path)


@cache
def plain_start() -> dict[str, torch.Tensor]:
    return dict(model_of(TINY, seed=5, loud=False).named_parameters())


@pytest.mark.parametrize("case", CASES, ids=".".join)
def test_a_changed_slot_leaves_the_other_weights_as_they_were(case: Case):
    base = plain_start()
    other = model_of(section_of(case), seed=5, loud=False)
    own = {"vision": "vision_tower.", "language": "language_model.", "connector": "connector."}
    compared = 0
    for path, weight in other.named_parameters():
        mine = path.startswith(own.get(case[0], " ")) or ".band." in path or "shared_bridge" in path
        tied = case[0] == "language" and path.startswith("lm_head")
        if path in base and not mine and not tied and base[path].shape == weight.shape:
            compared += 1
            assert torch.equal(weight, base[path]), path
    assert compared > 4


def test_the_seed_decides_the_weights():
    one, two, three = (
        dict(model_of(TINY, seed=s, loud=False).named_parameters()) for s in (1, 1, 2)
    )
    assert all(torch.equal(one[path], two[path]) for path in one)
    assert any(not torch.equal(one[path], three[path]) for path in one)
    state = torch.random.get_rng_state()
    model_of(with_keys(TINY, bridge="none"), seed=1, loud=False)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator was used"
