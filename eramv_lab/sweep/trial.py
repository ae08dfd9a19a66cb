"""One trial from its ticket to its end: priced, fitted in this process, told to Optuna."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from eramv_lab.data.files import locked
from eramv_lab.errors import LabError
from eramv_lab.recipe.arms import Arm
from eramv_lab.sweep.judge import WATCHED
from eramv_lab.sweep.labels import anchors_of, folder_of, label_of
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.pricing import Look, costs_of_arm
from eramv_lab.sweep.space import Values
from eramv_lab.sweep.store import Tickets
from eramv_lab.train.files import read_json, write_text
from eramv_lab.train.plan import FIT, PRUNED, Fit, clear, drop_checkpoints, fit_of
from eramv_lab.train.pool import Job, reason, run_jobs
from eramv_lab.train.stop import Stopped

TRIALS = "trials"
"""Folder of the trials' fits, in the study's."""
DEVICE_ERRORS = ("OutOfMemoryError", "MemoryError")
"""Names of errors that say that a trial was too large for its device."""


@dataclass(frozen=True, kw_only=True)
class Fitter:
    """Turns tickets into finished trials."""

    sweep: Sweep
    tickets: Tickets
    root: Path
    url: str
    track: str | None

    @property
    def study(self) -> str:
        """The study's name."""
        return self.root.name

    def one(self, trial: FrozenTrial, values: Values | None, began: float) -> None:
        """Price, fit and close one trial."""
        changes = values or trial.user_attrs.get("changes")
        if changes is None:
            self.tickets.close(trial, TrialState.FAIL)
            return
        fit = None
        try:
            fit, look = self.fit_of(trial, values, changes)
            found = self.priced(trial, fit, look) and self.fitted(trial, fit, began)
        except (LabError, OSError) as error:  # of the setting or the folder, not of the training
            self.fail(trial, said_of(error), fit)
            return
        if found:
            self.close(trial, fit, found)

    def priced(self, trial: FrozenTrial, fit: Fit, look: Look) -> bool:
        """Whether a trial keeps within the budget; one that does not is closed and never trains."""
        excess = look.excess(self.sweep.limits)
        self.tickets.constrain(trial, excess)
        if all(share <= 0 for share in excess.values()):
            return True
        self.tickets.tell(trial, infeasible=True)
        self.tickets.close(trial, TrialState.PRUNED)
        self.note_closed(trial, fit)
        return False

    def fit_of(
        self, trial: FrozenTrial, values: Values | None, changes: Mapping[str, Any]
    ) -> tuple[Fit, Look]:
        """The fit of a trial and its price, noted with the trial."""
        sweep = self.sweep
        arm = sweep.arm("trial", changes)
        look = Look(spec=arm.spec, costs=costs_of_arm(arm))
        given = trial.user_attrs.get("given")
        said = label_of(arm.spec, values, sweep.domains)
        number = trial.user_attrs.get("first", trial.number)
        words = (f"t{number:03}", given, said)
        fit = trial_fit(self.study, self.root, arm, said, sweep.seeds[0])
        band, run = arm.spec.band, arm.spec.band and arm.spec.band[-1] - arm.spec.band[0] + 1
        self.tickets.tell(
            trial,
            label=" ".join(w for w in words if w),
            folder=str(fit.folder.relative_to(self.root)),
            hash=arm.hash,
            costs=dict(look.costs),
            anchors=anchors_of(arm.spec),
            band=[band[0], len(band)] if band and run == len(band) else [None, len(band)],
            plain=not band and not arm.spec.reducer,
        )
        return fit, look

    def fitted(self, trial: FrozenTrial, fit: Fit, began: float) -> Mapping[str, Any] | None:
        """The result (or what a pruned fit leaves); None where the fit has failed. One process
        at a time: a worker that was thought to be lost may still be at it."""
        with locked(fit.folder):
            return self.fitted_alone(trial, fit, began)

    def fitted_alone(self, trial: FrozenTrial, fit: Fit, began: float) -> Mapping[str, Any] | None:
        """The same, the folder being ours."""
        found = fit.result() or read_json(fit.folder / PRUNED)
        if found is not None:  # whoever made it was killed before it could say so
            drop_checkpoints(fit.folder)
            return found
        resumed = fit.folder.is_dir() and any(fit.folder.glob("checkpoints/*"))
        clear(fit)
        self.tickets.tell(trial, resumed=trial.user_attrs.get("resumed", 0) + int(resumed))
        plan = fit.plan(self.track) | self.about(trial, fit)
        waited = time.perf_counter() - began
        try:
            fit_here(fit.folder, plan)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:  # one trial fails, whatever a component raises
            self.fail(trial, said_of(error), fit)
            return None
        finally:
            free_memory()
        found = fit.result() or read_json(fit.folder / PRUNED)
        if found is None:
            self.fail(trial, reason(Job(key=fit.key, target=FIT, folder=fit.folder)), fit)
        elif "startup" not in trial.user_attrs and not resumed and found.get("first_step_seconds"):
            self.tickets.tell(trial, startup=round(waited + found["first_step_seconds"], 3))
        return found

    def about(self, trial: FrozenTrial, fit: Fit) -> dict[str, Any]:
        """What a fit is told of the trial that it is."""
        goal, pruner = self.sweep.goals[0].metric, self.sweep.pruner
        told: dict[str, Any] = {
            "kind": "trial",
            "name": self.sweep_label(trial),
            "tags": {"eramv.trial": trial.number, "eramv.state": "running", "feasible": "true"},
        }
        if pruner.type != "none" and goal in WATCHED:
            args = {
                "url": self.url,
                "study": self.study,
                "trial": trial._trial_id,
                "metric": goal,
                "pruner": {"type": pruner.type, "options": dict(pruner.options)},
                "ends": "given" not in trial.user_attrs,
            }
            told["judge"] = {"target": "eramv_lab.sweep.judge:judge", "args": args}
        return told

    def sweep_label(self, trial: FrozenTrial) -> str:
        """The trial's label, as noted in the database."""
        fresh = self.tickets.storage.get_trial(trial._trial_id)
        return str(fresh.user_attrs["label"])

    def close(self, trial: FrozenTrial, fit: Fit, found: Mapping[str, Any]) -> None:
        """Tell Optuna what came out."""
        row = found["row"]
        step = found.get("step", fit.arm.train.steps)
        self.tickets.tell(trial, row=dict(row), step=step)
        if "step" in found:
            self.report_last(trial, found)
            self.tickets.close(trial, TrialState.PRUNED)
            return
        values = [row.get(goal.metric) for goal in self.sweep.goals]
        if any(not isinstance(v, int | float) or v != v for v in values):
            self.fail(trial, f"its row has no number for {self.sweep.goals}", fit)
            return
        self.tickets.close(trial, TrialState.COMPLETE, [float(v) for v in values if v is not None])

    def note_closed(self, trial: FrozenTrial, fit: Fit) -> None:
        """Show a trial that never trains in MLflow; what goes wrong there is told and forgotten."""
        from eramv_lab.train.tracked import note_infeasible

        note_infeasible(fit.plan(self.track) | self.about(trial, fit))

    def report_last(self, trial: FrozenTrial, found: Mapping[str, Any]) -> None:
        """A pruned trial whose worker was lost before it could say so has its last value."""
        metric, step = self.sweep.goals[0].metric, int(found["step"])
        fresh = self.tickets.storage.get_trial(trial._trial_id)
        if step not in fresh.intermediate_values and metric in found["row"]:
            value = float(found["row"][metric])
            self.tickets.storage.set_trial_intermediate_value(trial._trial_id, step, value)

    def fail(self, trial: FrozenTrial, why: str, fit: Fit | None = None) -> None:
        """One trial has failed; the traceback lies in its folder, as of any fit."""
        self.tickets.tell(trial, error=why)
        if fit is not None and not (fit.folder / "error.txt").exists():
            with contextlib.suppress(OSError):
                write_text(fit.folder / "error.txt", why + "\n")
        self.tickets.close(trial, TrialState.FAIL)
        print(f"trial {trial.number} failed: {why}", file=sys.stderr, flush=True)


def fit_here(folder: Path, plan: Mapping[str, Any]) -> None:
    """Fit in this process, or, where an arm wants several devices, in processes of its own.

    Raises what the fit raises, LabError where one of its processes has failed.
    """
    trainer = plan["recipe"]["trainer"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ranks = trainer["devices"]
    if ranks == "auto":
        ranks = max(1, len(visible.split(",")) if visible else 0)
    if ranks > 1:
        args = {"run_dir": str(folder), "plan": dict(plan)}
        job = Job(key=folder.name, target=FIT, folder=folder, args=args, ranks=ranks)
        if run_jobs([job], workers=1, threads=trainer["threads"])[job.key] != "done":
            raise LabError(reason(job))
        return
    from eramv_lab.train.fit import fit_one

    with logged(folder / "log.txt"):
        fit_one(folder, plan)


def trial_fit(study: str, root: Path, arm: Arm, label: str, seed: int) -> Fit:
    """The fit of a trial: its folder is named by what it tries, whichever ticket asks for it."""
    return fit_of(replace(arm, name=folder_of(label)), seed, study, root / TRIALS)


def said_of(error: BaseException) -> str:
    """An error in a line."""
    if isinstance(error, LabError):
        return " ".join(str(error).split())
    kind = type(error).__name__
    text = str(error).strip().split("\n", 1)[0]
    if kind in DEVICE_ERRORS or "out of memory" in text.lower():
        return f"out of memory: {text}" if text else "out of memory"
    return f"{kind}: {text}" if text else kind


def free_memory() -> None:
    """Let go of what a trial has held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Send what this process prints to a file for a while."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = [(number, os.dup(number)) for number in (1, 2)]
    _flush()
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for number, _ in before:
            os.dup2(log, number)
        yield
    finally:
        _flush()
        for number, kept in before:
            os.dup2(kept, number)
            os.close(kept)
        os.close(log)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
