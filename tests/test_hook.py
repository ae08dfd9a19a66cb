"""`import eramv_lab` loads nothing heavy, and transformers' Auto classes know our models."""

import subprocess
import sys
from pathlib import Path

import pytest
from laws.probes import spec_of
from laws.settings import TINY

from eramv_lab.data.processor import world_processor
from eramv_lab.model import build_model

LOAD = """
folder = sys.argv[1]
from transformers import {names}
found = [auto.from_pretrained(folder) for auto in ({names},)]
print([type(one).__name__ for one in found])
assert all(type(one).__module__.startswith("eramv_lab.model") for one in found), found
"""
BEFORE = "import sys\nimport eramv_lab\nassert not {'torch', 'transformers'} & set(sys.modules)\n"
AFTER = "import sys\nfrom transformers import AutoConfig, AutoProcessor\nimport eramv_lab\n"
OTHERS = (
    "import sys\nimport eramv_lab\n"
    "from transformers import AutoTokenizer, AutoModel, CONFIG_MAPPING\n"
    "assert 'eramv_lab.model' not in sys.modules and 'eramv' in CONFIG_MAPPING\n"
    "from transformers import LlamaConfig, AutoModelForImageTextToText\n"
    "assert AutoModel.from_config(LlamaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=8,"
    " intermediate_size=8, num_attention_heads=2)) is not None\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec, place = spec_of(TINY), tmp_path_factory.mktemp("model")
    build_model(spec).save_pretrained(place)
    world_processor(spec).save_pretrained(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("start", [BEFORE, AFTER, OTHERS], ids=["before", "after", "others"])
@pytest.mark.parametrize(
    "names", ["AutoConfig", "AutoProcessor", "AutoModelForImageTextToText, AutoProcessor"]
)
def test_auto_classes_know_our_models(start: str, names: str, folder: Path):
    run = subprocess.run(
        [sys.executable, "-c", start + LOAD.format(names=names), folder],
        text=True, capture_output=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_import_is_light():
    run = subprocess.run([sys.executable, "-c", BEFORE], text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
