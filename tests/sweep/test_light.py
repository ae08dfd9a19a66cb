"""The parent of a sweep imports no more than it must: its workers have the rest."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"lightning", "transformers", "mlflow", "matplotlib", "pandas", "webdataset", "peft"}
PARENT = """
import json, sys
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.run import launcher_of, run_sweep
launcher_of(load_sweep("sweeps/band_search.yaml"), None)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_parent_of_a_sweep_is_light():
    done = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "optuna" in loaded and not loaded & HEAVY
