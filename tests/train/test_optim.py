"""The chained optimizer does what its parts do apart, and is saved and scheduled as one."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from eramv_lab.train.optim import build_optimizer, schedule


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.language_model = nn.ModuleDict(
            {"embed_tokens": nn.Embedding(7, 6), "up": nn.Linear(6, 8), "norm": nn.LayerNorm(8)}
        )
        self.vision_tower = nn.Linear(8, 3)

    def loss(self) -> torch.Tensor:
        parts = self.language_model
        x = parts["norm"](parts["up"](parts["embed_tokens"](torch.arange(7))))
        return self.vision_tower(x).square().mean()


def triples(net: Net) -> list[tuple[str, str, nn.Parameter]]:
    return [
        (n, "vision" if n.startswith("vision") else "language", p)
        for n, p in net.named_parameters()
    ]


def build(net: Net, **changes):
    settings = {"lr": 1e-2, "muon_lr": 2e-2, "weight_decay": 0.1} | changes
    return build_optimizer(triples(net), **settings)


def run(net: Net, optimizers, steps: int) -> None:
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        net.loss().backward()
        for optimizer in optimizers:
            optimizer.step()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_groups_are_by_role_and_treatment(net: Net) -> None:
    found = {(g["kind"], g["role"]): len(g["params"]) for g in build(net).param_groups}
    assert found == {
        ("muon", "language"): 1,  # up.weight
        ("plain", "language"): 4,  # the embedding among them
        ("decay", "vision"): 1,
        ("plain", "vision"): 1,
    }


@pytest.mark.parametrize(("name", "rate"), [("muon", 0.01), ("adamw", 5e-4)])
def test_gates_move_as_fast_as_the_matrices_that_they_scale(name: Any, rate: float) -> None:
    gates = (
        "band.gate.weight",
        "band.ffn.gate.weight",
        "band.gate.proj.bias",
        "band.ffn.norm.weight",
    )
    three = [(f"layers.1.{n}", "band", nn.Parameter(torch.zeros(1))) for n in gates]
    three.append(("layers.1.band.ffn.gate_proj.weight", "band", nn.Parameter(torch.zeros(2, 2))))
    groups = build_optimizer(three, name=name, lr=5e-4, muon_lr=0.01, weight_decay=0.1).param_groups
    found = {group["kind"]: (group["lr"], group["weight_decay"]) for group in groups}
    matrices = {"muon": ("muon", 0.01), "adamw": ("decay", 5e-4)}[name]
    assert found == {"gate": (rate, 0.0), "plain": (5e-4, 0.0), matrices[0]: (matrices[1], 0.1)}
    assert [len(g["params"]) for g in groups if g["kind"] == "gate"] == [2]


def test_learned_queries_are_rows_of_a_table_and_no_map() -> None:
    names = ("queries", "read.q.weight", "in_proj_weight")
    three = [(f"connector.{n}", "connector", nn.Parameter(torch.zeros(2, 2))) for n in names]
    groups = build_optimizer(three, lr=5e-4, muon_lr=0.01, weight_decay=0.1).param_groups
    found = {(g["kind"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {("muon", 0.1): 2, ("plain", 0.0): 1}


def test_chain_equals_separate_optimizers(net: Net) -> None:
    other = copy.deepcopy(net)
    p = dict(other.named_parameters())
    matrix = p.pop("language_model.up.weight")
    decayed = [p.pop("vision_tower.weight")]
    apart = [
        Muon([matrix], lr=2e-2, weight_decay=0.1),
        AdamW(
            [{"params": decayed}, {"params": list(p.values()), "weight_decay": 0.0}],
            lr=1e-2,
            betas=(0.9, 0.95),
            weight_decay=0.1,
        ),
    ]
    run(net, [build(net)], 4)
    run(other, apart, 4)
    assert equal(net, other)


def test_state_survives_a_round_trip(net: Net) -> None:
    first = build(net)
    run(net, [first], 2)
    twin = copy.deepcopy(net)
    second = build(twin)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(net, [first], 2)
    run(twin, [second], 2)
    assert equal(net, twin)


def test_one_schedule_moves_every_group(net: Net) -> None:
    optimizer = build(net)
    before = [g["lr"] for g in optimizer.param_groups]
    assert sorted(set(before)) == [1e-2, 2e-2]
    factor = schedule(steps=10, warmup=2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    assert [g["lr"] for g in optimizer.param_groups] == [lr * 0.5 for lr in before]
    rates = {g["lr"] for part in optimizer.parts for g in part.param_groups}
    assert rates == {lr * 0.5 for lr in before}


def test_closure_runs_once(net: Net) -> None:
    optimizer, calls = build(net), []

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = net.loss()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert calls == [1]


def test_schedule_shapes() -> None:
    cosine = schedule(steps=100, warmup=10, floor=0.1)
    assert cosine(0) == pytest.approx(0.1)
    assert cosine(9) == cosine(10) == 1
    assert cosine(55) == pytest.approx(0.55)
    assert cosine(100) == cosine(1000) == pytest.approx(0.1)
    linear = schedule(steps=100, warmup=0, shape="linear")
    assert linear(25) == pytest.approx(0.75)
    constant = schedule(steps=100, warmup=4, shape="constant")
    assert constant(1) == 0.5 and constant(99) == 1
