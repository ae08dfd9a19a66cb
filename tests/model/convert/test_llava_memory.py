"""A conversion holds one shard at a time, whatever the size of the model."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import make_llava

CONVERT = """
import sys, threading, time
from pathlib import Path
from transformers import LlavaProcessor
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.model.convert import convert_llava

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def watch():
    while True:
        seen.append(held())
        time.sleep(0.002)

seen = [held()]
threading.Thread(target=watch, daemon=True).start()
section = {"band": "middle", "bridge": "mlp", "sharing": "separate"}
convert_llava(sys.argv[1], Path(sys.argv[2]), section, shard="40MB")
print(max(seen) - seen[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_is_that_of_a_shard(tmp_path: Path):
    words = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
             "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64}  # fmt: skip
    source = make_llava(tmp_path / "theirs", words=words, shard="40MB")
    size = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 2**20
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, source, tmp_path / "ours"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert size > 400 and float(done.stdout.split()[-1]) < 160, (size, done.stdout)
