"""What a fit with LoRA leaves: a merged model, and an adapter that plain peft makes the same of."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration, build_model
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.report.plots import read_curve
from eramv_lab.train import adapter
from eramv_lab.train.fit import fit_one
from eramv_lab.train.lora import add_differences
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import Fit, clear, fit_of
from eramv_lab.train.study import run_study
from tests.cost.shapes import tiny
from tests.train.test_lora import FULL, batch, loud
from tests.train.test_ranks import run
from tests.train.test_resume import apart, kill, nth_call, same

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
  band: {start: 2, length: 2, gate: tanh}
  sharing: own_norm
  bridge: mlp
data: {folder: FOLDER, world: {train: 20, test: 4, val: 4, questions: 2}}
train:
  steps: 5
  warmup: 0
  images: 4
  questions: 2
  validate_every: 0
  log_every: 1
  checkpoint_every: 2
  roles: {language: {lora: {rank: 4, dropout: 0.1, lr: 3e-2}}}
evaluate: {images: 2}
trainer: {accelerator: cpu}
arms:
  lora: {}
  more:
    base.arm: lora
    train.roles: {connector: frozen, bridge: frozen, band: frozen,
                  language: {lora: {layers: band, targets: [k, up]}}}
"""
READER = """
import sys, torch
from eramv_lab.errors import UserError
from eramv_lab.model import EramvForConditionalGeneration
from peft import PeftModel

start, adapter, given, out = sys.argv[1:]
batch = torch.load(given, weights_only=True)
model = PeftModel.from_pretrained(EramvForConditionalGeneration.from_pretrained(start), adapter)
with torch.no_grad():
    found = model.eval()(**batch).logits
    merged = model.merge_and_unload()(**batch).logits
torch.save([found, merged], out)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter")
    (path / "small.yaml").write_text(RECIPE.replace("FOLDER", str(path / "data")))
    return path


def planned(folder: Path, arm: str, runs: str = "runs", *changes: str) -> Fit:
    found = load_recipe(folder / "small.yaml", changes).arms[arm]
    return fit_of(found, 3, "adapter", folder / runs)


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Callable[[str], Fit]:
    """A finished fit; beside it `unmerged.pt`, the logits of its model before the merging."""

    def get(name: str) -> Fit:
        fit = planned(folder, name)
        if fit.result() is None:
            plain = adapter.merge

            def merge(model) -> None:
                with torch.no_grad():
                    torch.save(model.eval()(**batch(model)).logits, fit.folder / "unmerged.pt")
                plain(model)

            clear(fit)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(adapter, "merge", merge)
                fit_one(fit.folder, fit.plan())
        return fit

    return get


def load(folder: Path):
    return EramvForConditionalGeneration.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model):
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    return model.eval()(**batch(own)).logits


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).norm() <= 2e-6 * expected.norm())


def adapted(start, *folders: Path, **kwargs):
    from peft import PeftModel

    model = PeftModel.from_pretrained(start, folders[0], **kwargs)
    for number, other in enumerate(folders[1:]):
        model.load_adapter(other, f"more{number}")
    return model


def merged(start, folder: Path):
    unload: Callable[[], nn.Module] = adapted(start, folder).merge_and_unload  # type: ignore[assignment]
    return unload()


def test_the_folder_holds_a_merged_model_its_start_and_the_adapter(fitted):
    folder = fitted("lora").folder
    result = json.loads((folder / "result.json").read_text())
    assert result["adapter"] == {"folder": "adapter", "start": str(folder / "start")}
    after, start = (load_file(f / "model.safetensors") for f in (folder, folder / "start"))
    assert after.keys() == start.keys()
    moved = {n for n in after if not torch.equal(after[n], start[n])}
    assert "language_model.layers.5.self_attn.o_proj.weight" in moved
    assert "language_model.layers.2.band.gate.weight" in moved
    assert not any("mlp" in n or "norm" in n or "vision" in n for n in moved if ".band." not in n)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "start")
    assert config["modules_to_save"] == [
        "connector", "language_model.layers.2.band", "language_model.layers.3.band"
    ]  # fmt: skip
    lit = LitArm(fitted("lora").plan()["recipe"], 3)
    assert result["row"]["trainable"] == sum(p.numel() for p in lit.parameters() if p.requires_grad)
    assert result["row"]["parameters"] == sum(t.numel() for t in after.values())
    assert result["row"]["train_pflops"] > 0


def test_plain_peft_in_a_fresh_process_says_the_same(fitted, tmp_path):
    folder = fitted("lora").folder
    torch.save(batch(load(folder)), tmp_path / "batch.pt")
    out = tmp_path / "found.pt"
    places = [folder / "start", folder / "adapter", tmp_path / "batch.pt", out]
    subprocess.run([sys.executable, "-W", "ignore", "-c", READER, *places], check=True)
    found, after = torch.load(out, weights_only=True)
    unmerged = torch.load(folder / "unmerged.pt", weights_only=True)
    assert (found - logits(load(folder / "start"))).abs().max() > 1e-2
    assert torch.equal(found, unmerged)
    assert near(logits(load(folder)), unmerged) and near(after, unmerged)


def test_an_adapter_learns_on(fitted):
    folder = fitted("lora").folder
    model = adapted(load(folder / "start"), folder / "adapter", is_trainable=True)
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    kinds = {next(k for k in ("lora_A", "lora_B", "modules_to_save") if k in n) for n in learning}
    assert kinds == {"lora_A", "lora_B", "modules_to_save"}
    given = batch(model.get_base_model())
    given["labels"] = given["input_ids"].clone()
    given["labels"][:, :-1] = -100
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(**given).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]


def test_peft_finds_the_start_by_itself(fitted):
    from peft import AutoPeftModel

    folder = fitted("lora").folder
    model = AutoPeftModel.from_pretrained(folder / "adapter", import_allowlist=["eramv_lab"])
    assert torch.equal(logits(model), torch.load(folder / "unmerged.pt", weights_only=True))


def test_an_arm_starts_from_the_merged_weights_and_two_adapters_stack(fitted):
    first, second = fitted("lora").folder, fitted("more").folder
    result = json.loads((second / "result.json").read_text())
    assert result["adapter"]["start"] == str(first) and not (second / "start").exists()
    expected = logits(load(second))
    assert (expected - logits(load(first))).abs().max() > 1e-4
    assert near(logits(adapted(load(first), second / "adapter")), expected)
    once = merged(load(first / "start"), first / "adapter")
    assert near(logits(merged(once, second / "adapter")), expected)
    both = adapted(load(first / "start"), first / "adapter", second / "adapter")
    both.base_model.set_adapter(["default", "more0"])  # type: ignore[operator]
    assert near(logits(both), expected)


def test_differences_alone_can_be_weighted(tmp_path):
    spec = tiny()
    start = build_model(spec, seed=1)
    roles = {"language": {"lora": {"rank": 2}}}
    for number in range(2):
        model = build_model(spec, seed=1)
        add_differences(model, roles, spec, number)
        loud(model, 0.1 * (number + 1))
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name)
        adapter.write_adapter(model, roles, tmp_path / f"a{number}", None)
    once = merged(build_model(spec, seed=1), tmp_path / "a0")
    expected = logits(merged(once, tmp_path / "a1"))
    both = adapted(start, tmp_path / "a0", tmp_path / "a1")
    both.add_weighted_adapter(["default", "more0"], [1.0, 1.0], "sum", combination_type="cat")
    both.set_adapter("sum")
    assert (logits(both) - expected).norm() <= 1e-5 * expected.norm()


def test_a_tower_s_adapter_beside_a_language_model_that_learns_whole(tmp_path):
    """Embedding and head are one matrix, which the adapter has to hold under both names."""
    spec, roles = tiny(), {"vision": {"lora": {"targets": ["o"]}}, **FULL, "language": "full"}
    model = build_model(spec, seed=1)
    add_differences(model, roles, spec, 0)
    loud(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.requires_grad_("vision_tower" not in name or "lora_" in name)
            if "vision_tower" not in name:
                p += 0.02
    adapter.write_adapter(model, roles, tmp_path / "a", None)
    found = adapted(build_model(spec, seed=1), tmp_path / "a")
    assert torch.equal(logits(found), logits(model))


def test_a_large_start_is_made_when_it_is_wanted(fitted, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "KEPT_GIB", 1e-6)
    fit = planned(folder, "lora", "large", "train.steps=1")
    clear(fit)
    with pytest.warns(UserWarning, match="write_start"):
        result = fit_one(fit.folder, fit.plan())
    assert result["adapter"]["start"] is None and not (fit.folder / "start").exists()
    made = load_file(adapter.write_start(fit.folder, tmp_path / "start") / "model.safetensors")
    kept = load_file(fitted("lora").folder / "start" / "model.safetensors")
    assert all(torch.equal(made[name], kept[name]) for name in kept)
    with pytest.raises(UserError, match="not empty"):  # what a user has is never replaced
        adapter.write_start(fit.folder, tmp_path / "start")


def test_a_fit_with_the_same_training_takes_the_adapter_over(fitted, folder):
    whole, fit = fitted("lora"), planned(folder, "lora", "again", "evaluate.images=1")
    clear(fit)
    plan = {**fit.plan(), "trained": str(whole.folder)}
    assert fit_one(fit.folder, plan)["adapter"]["start"] == str(whole.folder / "start")
    files = [load_file(f.folder / "adapter/adapter_model.safetensors") for f in (fit, whole)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[1])
    same_model = [load_file(f.folder / "model.safetensors") for f in (fit, whole)]
    assert all(torch.equal(same_model[0][name], same_model[1][name]) for name in same_model[1])


def test_killed_it_ends_the_same(fitted, folder):
    whole, fit = fitted("lora"), planned(folder, "lora", "killed")
    clear(fit)
    assert apart(fit, lambda: nth_call(LitArm, "training_step", 5, kill)) == -signal.SIGKILL
    assert fit.result() is None
    clear(fit)
    assert apart(fit, lambda: nth_call(adapter, "merge", 1, kill)) == -signal.SIGKILL
    assert apart(fit, lambda: None) == 0
    same(fit.folder, whole.folder)
    files = [load_file(f.folder / "adapter/adapter_model.safetensors") for f in (fit, whole)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[1])


def test_four_bits_are_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = load_recipe(folder / "small.yaml", ["train.roles.language.lora.bits=4"])
    with pytest.raises(UserError, match="a CUDA device"):
        run_study(recipe, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_learns(folder, strategy):
    plain = ["train.roles.language.lora.dropout=0", "train.optimizer=adamw"]
    two = ["trainer.devices=2", "train.images=2", f"trainer.strategy={strategy}"]
    losses, weights = [], []
    for name, changes in (("one", plain), (strategy, [*plain, *two])):
        fit = planned(folder, "lora", name, *changes)
        if fit.result() is None:  # the one process serves both
            clear(fit)
            assert run(fit) == "done", (fit.folder / "error.txt").read_text()
        losses.append([v for _, v in read_curve(fit.folder / "curves.csv", "train/loss")])
        weights.append(load_file(fit.folder / "adapter/adapter_model.safetensors"))
        assert near(logits(adapted(load(fit.folder / "start"), fit.folder / "adapter")),
                    logits(load(fit.folder)))  # fmt: skip
    torch.testing.assert_close(losses[0], losses[1], atol=2e-5, rtol=1e-5)
    assert weights[0].keys() == weights[1].keys()
