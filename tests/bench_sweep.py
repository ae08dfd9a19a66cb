"""Trials an hour: a sweep beside a fresh `fit` process for each setting, in one run.

The fresh fits keep no features and end no trial early; data, base and MLflow's store are there
for both. They take the settings that the sweep begins with, one before it and the others after
it, so that a change of the machine's load meets both sides.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import optuna
from bench_rows import Rows, Size, versus
from optuna.trial import FrozenTrial, TrialState

from eramv_lab.train.files import read_json

ROOT = Path(__file__).resolve().parents[1]
SWEEP, STUDY = "sweeps/band_search.yaml", "experiments/ablation_ca.yaml"
FRESH = "data.cache_gib=0"
GIVEN = ("paper", "plain")
"""Settings that the sweep begins with, and that are fitted afresh."""
TINY = (
    *("base=none", "trainer.accelerator=cpu", "train.steps=4", "train.warmup=1"),
    *("train.validate_every=2", "train.validate_images=2", "train.images=2"),
    *("data.world.train=8", "data.world.test=4", "data.world.val=4"),
)
TINY_SEARCH = ("trials=3", "pruner.n_warmup_steps=0", "pruner.n_startup_trials=1")


def sweep(size: Size) -> Rows:
    """What a sweep gains over fresh fits, and by what."""
    with tempfile.TemporaryDirectory() as name:
        runs, tiny = Path(name), size.runs == 1
        change = [*(TINY if tiny else ()), f"data.folder={size.data or runs / 'data'}"]
        paper = ["fit", STUDY, "--arm", "eramv", "--seed", "0", "--runs", name]
        paper += [*change, "evaluate.split=val"]
        together([*paper, "train.steps=1", "train.warmup=0"])  # data, base, features, store
        alone = [together([*paper, FRESH])]
        lead, took, trials = searched(runs, [*change, *(TINY_SEARCH if tiny else ())])
        lines: list[list[str]] = []
        for number, given in enumerate((GIVEN[1], *GIVEN)):
            file = runs / f"fresh{number}.yaml"  # of two studies, which may run side by side
            shutil.copy(folder_of(trials, given, runs) / "recipe.yaml", file)
            lines.append(["fit", str(file), "--runs", name, FRESH])
        alone.append(together(lines[0]))
        pair = together(*lines[1:])
        fits = [runs / "ablation_ca", runs / "fresh0"]
        yield from compared(alone, pair, [seconds_of(fit) for fit in fits], took, trials)
        startups = [t.user_attrs["startup"] for t in trials if "startup" in t.user_attrs]
        first, later = startups[0], statistics.median(startups)
        yield versus("seconds to a step: of a sweep / from its first ticket", lead + first, first)
        yield versus("seconds from a ticket to a step: median / first", later, first)


def compared(
    alone: Sequence[float],
    pair: float,
    inside: Sequence[float],
    took: float,
    trials: Sequence[FrozenTrial],
) -> Rows:
    """The rows; those that say what the gain is owed to multiply to it.

    `alone`, `pair`: seconds of fresh processes, `inside`: of the fits in them, by themselves;
    `took`: seconds of the whole search.
    """
    fresh, fit = statistics.fmean(alone), statistics.fmean(inside)
    spent = statistics.fmean(seconds(trial) for trial in trials)
    same = [t.user_attrs["row"]["seconds"] for t in trials if t.user_attrs.get("given") in GIVEN]
    kept, rate = statistics.fmean(same), 3600 * len(trials) / took
    yield versus("trials an hour: sweep / fresh fits in turn", rate, 3600 / fresh, least=5)
    yield versus("trials an hour: sweep / two loops of fresh fits", rate, 2 * 3600 / pair)
    yield versus("of it a process for every fit / the fit", fresh, fit)
    yield versus("of it no features kept / the same settings in the sweep", fit, kept)
    yield versus("of it a whole fit / a trial with its choice, some pruned", kept, spent)
    yield versus("of it seconds of trials / seconds of the search", spent * len(trials), took)


def searched(runs: Path, change: Sequence[str]) -> tuple[float, float, list[FrozenTrial]]:
    """Seconds from the command to its first ticket, and to the end of its last trial; its trials.
    What comes after the search, more seeds and controls, is cut off: fresh fits have none of it."""
    line = ["sweep", SWEEP, "--runs", str(runs), *change]
    url = f"sqlite:///{runs / 'band_search' / 'search.db'}"
    began, process = datetime.now(), start(line)
    study = None
    while process.poll() is None:
        time.sleep(1)
        if study is None and (runs / "band_search" / "workers").exists():
            study = optuna.load_study(study_name="band_search", storage=url)
        if study and all(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            process.send_signal(signal.SIGTERM)
            process.wait()
    assert study, process.communicate()[1]
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = [trial for trial in study.get_trials() if trial.state in ended]
    last = max(trial.datetime_complete or began for trial in trials)
    first = min(trial.datetime_start or began for trial in trials)
    return (first - began).total_seconds(), (last - began).total_seconds(), trials


def folder_of(trials: Sequence[FrozenTrial], given: str, runs: Path) -> Path:
    """The folder of a trial that the sweep begins with."""
    trial = next(t for t in trials if t.user_attrs.get("given") == given)
    return runs / "band_search" / str(trial.user_attrs["folder"])


def seconds(trial: FrozenTrial) -> float:
    """What a trial took, the choice of its setting and all notes of it included."""
    assert trial.duration
    return trial.duration.total_seconds()


def seconds_of(study: Path) -> float:
    """What the newest fit of a study took by itself."""
    newest = max(study.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    return (read_json(newest) or {})["row"]["seconds"]


def together(*lines: Sequence[str]) -> float:
    """Seconds until command lines that begin at once have all ended."""
    began = time.perf_counter()
    for process in [start(line) for line in lines]:
        _, error = process.communicate()
        assert process.returncode == 0, error
    return time.perf_counter() - began


def start(line: Sequence[str]) -> subprocess.Popen[str]:
    """A command line of the program, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "eramv_lab", *line],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
