"""Law 5: saved and loaded in a new process the logits are the same, with an adapter and merged."""

import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eramv_lab.train.adapter import write_adapter
from eramv_lab.train.lora import add_differences
from eramv_lab.train.roles import set_trainable
from laws.probes import patches
from laws.settings import TINY, with_keys
from laws.whole import FULL, SYSTEMS, Sample, inputs, model_of, said, sample

PROJECTIONS = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
ROLES = {
    **dict.fromkeys(("connector", "bridge", "band"), "full"),
    "language": {"lora": {"rank": 2, "targets": ["q", "k", "v", "o", "gate", "up", "down"]}},
}
"""How an arm learns by LoRA: what is new learns whole beside it."""
ADAPTED = ("plain", "bridge.mlp", "flamingo", "sharing.lora", "qwen2", "fastv_joint")

READER = """
import sys, torch
from pathlib import Path
from eramv_lab.model import EramvForConditionalGeneration
from peft import PeftModel

def load(folder):
    return EramvForConditionalGeneration.from_pretrained(folder).eval()

found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    batch = torch.load(folder / "batch.pt", weights_only=True)
    batch["image_counts"] = tuple(batch["image_counts"])
    with torch.no_grad():
        found[folder.name] = load(folder / "model")(**batch).logits
        if (folder / "adapter").exists():
            adapted = PeftModel.from_pretrained(load(folder / "model"), folder / "adapter")
            found[folder.name + "+adapter"] = adapted(**batch).logits
            merged = adapted.merge_and_unload()
            found[folder.name + "+merged"] = merged(**batch).logits
torch.save(found, sys.argv[2])
"""


def samples(model: Any) -> list[Sample]:
    return [sample(model, words=7), sample(model, words=5, pictures=(1,))]


def save_adapted(model: Any, batch: dict[str, Any], folder: Path) -> torch.Tensor:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=PROJECTIONS))
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 4 * model.config.text_config.num_hidden_layers
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in trained:
            weight = adapted.get_parameter(name)
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        logits = adapted.eval()(**batch).logits
    adapted.save_pretrained(str(folder))
    return logits


def save_learnt(model: Any, batch: dict[str, Any], folder: Path) -> torch.Tensor:
    """The same as a fit with LoRA leaves it."""
    add_differences(model, ROLES, model.spec, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, _, weight in set_trainable(model, ROLES):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        logits = model.eval()(**batch).logits
    write_adapter(model, ROLES, folder, None)
    return logits


def test_every_system_comes_back_in_a_new_process(tmp_path: Path):
    come_back(tmp_path, SYSTEMS.keys() - FULL, ADAPTED, save_adapted)


@pytest.mark.slow
def test_every_system_comes_back_with_an_adapter_and_with_it_merged(tmp_path: Path):
    come_back(tmp_path, SYSTEMS, SYSTEMS, save_learnt)


def come_back(
    tmp_path: Path,
    names: Collection[str],
    adapters: Collection[str],
    save: Callable[[Any, dict[str, Any], Path], Tensor],
) -> None:
    expected: dict[str, torch.Tensor] = {}
    for name in names:
        model, folder = model_of(SYSTEMS[name]), tmp_path / "saved" / name
        model.save_pretrained(folder / "model")
        batch = inputs(model, samples(model))
        torch.save({k: list(v) if k == "image_counts" else v for k, v in batch.items()},
                   folder / "batch.pt")  # fmt: skip
        with torch.no_grad():
            expected[name] = model(**batch).logits
        if name in adapters:
            adapted = save(model, batch, folder / "adapter")
            expected[f"{name}+adapter"] = expected[f"{name}+merged"] = adapted
            assert (adapted - expected[name]).abs().max() > 1e-3
    found_file = tmp_path / "found.pt"
    subprocess.run([sys.executable, "-c", READER, tmp_path / "saved", found_file], check=True)
    found = torch.load(found_file, weights_only=True)
    assert found.keys() == expected.keys()
    wrong = [
        f"{name}: {float((found[name] - logits).abs().max()):.1e}"
        for name, logits in expected.items()
        if not torch.allclose(
            found[name], logits, atol=1e-4 if "+merged" in name else 0.0, rtol=0.0
        )
    ]
    assert not wrong


def test_places_drawn_by_the_fits_seed_are_saved_with_it(tmp_path: Path):
    """`seed: run` of `random`: other places in each fit, the same ones when it is loaded."""
    anchors = {"type": "random", "count": 4, "seed": "run"}
    section, drawn = with_keys(TINY, anchors=anchors), set[tuple[int, ...]]()
    for seed in (1, 2):
        model = model_of(section, seed=seed)
        model.save_pretrained(tmp_path / str(seed))
        again = type(model).from_pretrained(tmp_path / str(seed))
        seen = patches(model.spec, images=2)
        index_NA, kept_NA = (one.selector(seen).index_NA for one in (model, again))
        assert torch.equal(index_NA, kept_NA) and torch.equal(index_NA[0], index_NA[1])
        drawn.add(tuple(index_NA[0].tolist()))
    assert len(drawn) == 2


def test_half_precision_and_autocast_stay_close():
    for name in ("plain", "bridge.mlp", "saisa", "flamingo", "owl3", "fastv_joint", "qwen3"):
        model = model_of(SYSTEMS[name])
        plain = said(model, samples(model))
        with torch.autocast("cpu", torch.bfloat16):
            automatic = said(model, samples(model))
        for one, two in zip(plain, automatic, strict=True):
            assert two.isfinite().all() and (one - two.float()).abs().mean() < 0.1, name
        model.to(torch.bfloat16)
        batch = inputs(model, samples(model))
        batch["pixel_values"] = batch["pixel_values"].bfloat16()
        with torch.no_grad():
            assert model(**batch).logits.dtype == torch.bfloat16
