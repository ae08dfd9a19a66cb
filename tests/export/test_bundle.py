"""The code of one model alone: a third party's component goes along, or is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from laws.probes import spec_of
from laws.settings import TINY, with_keys

from eramv_lab.errors import UserError
from eramv_lab.export.bundle import bundle

PLUGIN = '''
"""A selector of somebody else's."""

from __future__ import annotations
{imports}
from dataclasses import dataclass

import torch

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors import CountedConfig, Selector, same_for_all

STEP = 2
"""Every so many patches."""


@dataclass(frozen=True, kw_only=True)
class {name}Config(CountedConfig):
    """The first patches."""


@ANCHORS.register("{slot}", {name}Config)
class {name}(Selector):
    """The first patches."""

    def choose(self, patches):
        return same_for_all(torch.arange(self.config.count), patches)
{more}'''


def plugin(folder: Path, module: str, imports: str = "", more: str = "") -> Any:
    text = PLUGIN.format(imports=imports, more=more, name=module.title(), slot=module)
    (folder / f"{module}.py").write_text(text)
    __import__(module)
    return spec_of(with_keys(TINY, anchors={"type": module, "count": 3}))


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from eramv_lab.registry import ANCHORS

    monkeypatch.syspath_prepend(tmp_path)
    entries, configs = dict(ANCHORS.entries), dict(ANCHORS.by_config)
    ANCHORS.load()
    monkeypatch.setattr(ANCHORS, "entries", entries)
    monkeypatch.setattr(ANCHORS, "by_config", configs)
    return tmp_path


def test_a_third_partys_component_goes_along(foreign: Path):
    files = bundle(plugin(foreign, "firsts"))
    assert "class Firsts(Selector)" in files["modeling_eramv.py"]
    assert 'configs["firsts"] = FirstsConfig' in files["configuration_eramv.py"]


def test_a_library_that_may_not_be_there_is_refused(foreign: Path):
    spec = plugin(foreign, "scipied", "import scipy", "\n    kind = scipy\n")
    with pytest.raises(UserError, match="imports scipy, which a standalone folder cannot count on"):
        bundle(spec)


def test_code_that_runs_by_itself_is_refused(foreign: Path):
    spec = plugin(foreign, "loudly", more="\n\nprint(STEP)\n")
    with pytest.raises(UserError, match="takes definitions and imports alone"):
        bundle(spec)


def test_the_files_name_nothing_that_they_lack(tmp_path: Path):
    for prompt in ("image_first", "question_first"):
        section = with_keys(TINY, prompt=prompt, reducer=["fastv"], sharing="lora")
        for name, text in bundle(spec_of(section)).items():
            (tmp_path / name).write_text(text)
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "F,E9",
            "-q",
            tmp_path,
        ]
        found = subprocess.run(ruff, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
