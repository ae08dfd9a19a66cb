"""Every component in a standalone folder gives its logits where nothing of ours can be imported."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eramv_lab.export.standalone import write_standalone
from laws.settings import CASES
from laws.whole import SYSTEMS, inputs, model_of, sample

FORBIDDEN = ("eramv_lab", "omegaconf")  # accelerate looks for mlflow and others by itself

LAB = ("pydantic", "lightning", "mlflow", "optuna", "peft")

READER = f"""
import sys, torch
from pathlib import Path

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(name + " is not to be imported")

sys.meta_path.insert(0, Forbid())
from transformers import AutoModelForImageTextToText

found = {{}}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    batch = torch.load(folder / "batch.pt", weights_only=True)
    batch["image_counts"] = tuple(batch["image_counts"])
    model = AutoModelForImageTextToText.from_pretrained(
        folder / "model", trust_remote_code=True
    ).eval()
    with torch.no_grad():
        found[folder.name] = model(**batch).logits
    again = type(model)(model.config)
    assert again.config.to_dict()["slots"] == model.config.to_dict()["slots"]
torch.save(found, sys.argv[2])
"""


def names_of(file: Path) -> set[str]:
    """Top packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_every_component_is_among_the_systems():
    assert {".".join(case) for case in CASES} <= SYSTEMS.keys()


@pytest.mark.slow
def test_every_system_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected: dict[str, torch.Tensor] = {}
    for name in SYSTEMS:
        model: Any = model_of(SYSTEMS[name])
        folder, saved = tmp_path / "all" / name, tmp_path / "saved" / name
        model.save_pretrained(saved)
        folder.mkdir(parents=True)
        write_standalone(saved, folder / "model")
        batch = inputs(model, [sample(model, words=7), sample(model, words=5, pictures=(1,))])
        plain = {k: list(v) if k == "image_counts" else v for k, v in batch.items()}
        torch.save(plain, folder / "batch.pt")
        with torch.no_grad():
            expected[name] = model(**batch).logits
        for file in (folder / "model").glob("*.py"):
            assert not names_of(file) & {*FORBIDDEN, *LAB}, file
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    found_file = tmp_path / "found.pt"
    subprocess.run([sys.executable, "-I", "-c", READER, tmp_path / "all", found_file], check=True)
    found = torch.load(found_file, weights_only=True)
    assert found.keys() == expected.keys()
    wrong = [name for name, logits in expected.items() if not torch.equal(found[name], logits)]
    assert not wrong
