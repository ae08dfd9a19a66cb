"""The smallest sweep there is: a trial takes about a second."""

import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Run
from optuna.trial import FrozenTrial
from rich.console import Console

from eramv_lab.report.plots import read_curve
from eramv_lab.sweep.config import Heartbeat
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.run import launcher_of, run_sweep
from eramv_lab.sweep.store import open_storage
from eramv_lab.track.client import client_of, search
from eramv_lab.track.store import store_uri
from eramv_lab.train.files import read_json

STEPS = 8
RECIPE = f"""
question: Which tiny model reads best?
model:
  vision: tiny
  anchors: {{type: cls_topk, count: 4}}
  connector: mlp2x_gelu
  language: tiny
data:
  folder: DATA
  world: {{train: 12, test: 4, val: 4, questions: 2}}
train:
  steps: {STEPS}
  images: 2
  questions: 2
  validate_every: 2
  validate_images: 4
  log_every: 1
  checkpoint_every: 1
evaluate: {{batch: 4}}
trainer: {{accelerator: cpu}}
arms:
  eramv: {{model.band: {{start: 1, length: 2}}, model.anchors.count: 3}}
goal: loss
budget: {{prefill: {{share: 1.1, of: eramv}}}}
search:
  model.band.length: {{from: 0, to: 2}}
  model.band.start: {{from: 0, to: 3}}
  model.anchors.count: {{from: 0, to: 8}}
trials: 4
begin_with: {{paper: eramv}}
sampler: random
pruner: none
finalists: 1
seeds: [0]
heartbeat: {{every: 1, grace: 5}}
"""
NAME = "tiny"
PROGRAM = [sys.executable, "-m", "eramv_lab"]
ENV = {"PYTHONPATH": str(Path(__file__).parents[2])}


def plain() -> dict[str, Any]:
    """The sweep as plain data."""
    return yaml.safe_load(RECIPE)


def write(folder: Path, data: Path, name: str = NAME, **changes: Any) -> Path:
    """The sweep's file; `changes` are its top keys (`none` leaves one out)."""
    told = plain()
    told["data"]["folder"] = str(data)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(told | changes, sort_keys=False))
    return file


def run(file: Path, *overrides: str, runs: str = "runs", **settings: Any) -> tuple[int, str]:
    """`run_sweep` in this process: the exit code, and what it said."""
    console = Console(file=io.StringIO(), width=200)
    sweep = load_sweep(file, overrides)
    launcher = launcher_of(sweep, settings.pop("launcher", None))
    code = run_sweep(sweep, launcher, runs=file.parent / runs, console=console, **settings)
    return code, console.file.getvalue()


def begin(file: Path, *more: str, runs: str = "runs", **env: str) -> subprocess.Popen[str]:
    """The command line, in a session of its own."""
    return subprocess.Popen(
        [*PROGRAM, "sweep", file, "--runs", file.parent / runs, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | ENV | env,
    )


def trials(root: Path, url: str | None = None) -> list[FrozenTrial]:
    """All trials in the database."""
    import optuna

    storage = open_storage(url or f"sqlite:///{root / 'search.db'}", Heartbeat())
    try:
        return optuna.load_study(study_name=root.name, storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def states(root: Path) -> Counter[str]:
    """How many trials search.json has in each state."""
    found = read_json(root / "search.json")
    assert found is not None
    return Counter(trial["state"] for trial in found["trials"])


def tracked(root: Path) -> tuple[Run, list[Run]]:
    """The sweep's run in MLflow and those below it."""
    client = client_of(store_uri(root.parent))
    (experiment,) = (e for e in client.search_experiments() if e.name == "eramv_lab")
    where = experiment.experiment_id
    (parent,) = search(client, where, {"eramv.study": root.name, "eramv.kind": "sweep"})
    return parent, search(client, where, {"mlflow.parentRunId": parent.info.run_id})


def stints(folder: Path, steps: int = STEPS) -> list[int]:
    """The steps from which a finished fit was trained, time after time: `[0]` where in one go."""
    result = read_json(folder / "result.json")
    assert result is not None and result["trained_in"] is None
    curve = read_curve(folder / "curves.csv", "train/loss")
    assert [step for step, _ in curve] == list(range(steps))
    return [stint["from_step"] for stint in result["stints"]]
