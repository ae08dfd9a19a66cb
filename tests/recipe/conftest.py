"""A small recipe of real components, and a way to write files beside it."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = """\
question: Does it read?
model:
  vision: tiny
  language: tiny
  connector: {type: mlp2x_gelu, skip: true}
  anchors: {type: cls_topk, count: 8, cls: true}
  band: {start: 2, length: 2}
  bridge: {type: mlp}
  prompt: image_first
base: none
train:
  steps: 3
  lr: 1e-3
seeds: [0, 1]
"""
"""Lines are counted in tests: `anchors` is line 6, `band` 7, `bridge` 8, `lr` 13."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes a file into the working directory, where `small.yaml` lies already."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)

    def put(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return put
