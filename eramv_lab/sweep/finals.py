"""After the search: finalists with more seeds, then the best against its controls on `test`.

The best trials are trained with the other seeds and scored on `val`, where they were chosen; the
one with the best mean is the best found. It then meets the first setting of `begin_with` (the
paper's) and plain anchors at its own FLOPs on `test`, as the arms of an ordinary recipe, best.yaml.
What was trained before is scored again and not trained again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from eramv_lab.errors import InfeasibleError, LabError, UserError
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.load import Document
from eramv_lab.recipe.resolve import Recipe, resolve_document
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.points import changes_of
from eramv_lab.sweep.records import state_of
from eramv_lab.sweep.store import Tickets
from eramv_lab.sweep.trial import TRIALS, trial_fit
from eramv_lab.train.files import read_json, write_text
from eramv_lab.train.plan import Fit, fit_of

BEST, PLAIN = "best", "plain_anchors"
"""Arms of best.yaml: the best found, and plain anchors that cost as much."""
FILE = "best.yaml"
HEAD = """\
# {study}: the best setting found, the first one given, and plain anchors at the best one's FLOPs.
#   run    python -m eramv_lab fit {file}
"""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A trial that is fitted with every seed."""

    trial: FrozenTrial
    arm: Arm
    changes: Mapping[str, Any]
    fits: Sequence[Fit]
    """One for each seed; the first is the trial's own."""

    @property
    def label(self) -> str:
        """The trial's."""
        return str(self.trial.user_attrs["label"])

    def values(self, metric: str) -> list[float]:
        """The goal of every seed that has finished."""
        found = [fit.result() for fit in self.fits]
        return [float(one["row"][metric]) for one in found if one]

    def told(self, metric: str) -> dict[str, Any]:
        """What search.json says of it."""
        done = [fit.seed for fit in self.fits if fit.result()]
        values = self.values(metric)
        mean = statistics.fmean(values) if values else None
        told = {"number": self.trial.number, "label": self.label, "seeds": done}
        return told | {"values": values, "mean": mean}


def finalists_of(sweep: Sweep, tickets: Tickets, root: Path) -> list[Finalist]:
    """The best finished trials by the first goal, each setting once."""
    goal = sweep.goals[0]
    sign = -1 if goal.direction == "maximize" else 1
    done = [t for t in tickets.trials() if t.state == TrialState.COMPLETE and t.values]
    found: dict[str, Finalist] = {}
    for trial in sorted(done, key=lambda t: (sign * t.values[0], t.number)):
        changes = tickets.values(trial) or trial.user_attrs.get("changes") or {}
        arm = sweep.arm("trial", changes)
        if arm.hash not in found:
            label = Path(str(trial.user_attrs["folder"])).name.rpartition("-s")[0]
            first = trial_fit(root.name, root, arm, label, sweep.seeds[0])
            fits = [fit_of(first.arm, seed, root.name, root / TRIALS) for seed in sweep.seeds]
            found[arm.hash] = Finalist(trial=trial, arm=first.arm, changes=changes, fits=fits)
        if len(found) == sweep.settings.finalists:
            break
    return list(found.values())


def best_of(finalists: Sequence[Finalist], sweep: Sweep) -> Finalist | None:
    """The finalist with the best mean; of those with all seeds, where there are such."""
    goal = sweep.goals[0]
    sign = 1 if goal.direction == "maximize" else -1
    whole = [f for f in finalists if len(f.values(goal.metric)) == len(sweep.seeds)]
    ranked = [f for f in whole or finalists if f.values(goal.metric)]
    return max(ranked, key=lambda f: sign * statistics.fmean(f.values(goal.metric)), default=None)


def final_recipe(
    sweep: Sweep, tickets: Tickets, best: Finalist, root: Path
) -> tuple[Recipe, list[str]]:
    """best.yaml as a recipe, written to `root`; and what a reader must know of its arms."""
    arms = {BEST: changes_of(best.changes)}
    notes: list[str] = []
    paper = sweep.given[0] if sweep.given else None
    if paper is not None:
        own = [state_of(t) for t in tickets.trials() if t.user_attrs.get("given") == paper.name]
        if sweep.arm(paper.name, paper.changes).hash == best.arm.hash:
            notes.append(f"the best found is {paper.name} itself")
        elif {"complete", "pruned"} & set(own):
            arms[paper.name] = changes_of(paper.changes)
        else:  # it has failed, or costs more than the budget
            notes.append(
                f"{paper.name} is no final arm: its trial is {', '.join(own) or 'missing'}"
            )
    if not best.arm.spec.band and not best.arm.spec.reducer:
        notes.append("the best found is plain anchors: no band tried was better")
    else:
        plain = {"model.band": "none", "model.reducer": "none"}
        plain |= {"model.anchors.count": {"match_flops_of": BEST}}
        arms[PLAIN] = changes_of(plain, changes_of(best.changes))
    try:
        recipe = _resolved(sweep, arms)
    except (InfeasibleError, UserError) as error:  # as where there is no count to match
        if PLAIN not in arms:
            raise
        notes.append(f"no plain anchors cost what the best found does: {error}")
        del arms[PLAIN]
        recipe = _resolved(sweep, arms)
    recipe = replace(recipe, name=root.name, path=str(root / FILE), seeds=sweep.seeds)
    text = yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True)
    write_text(root / FILE, HEAD.format(study=root.name, file=root / FILE) + text)
    return recipe, notes


def _resolved(sweep: Sweep, arms: Mapping[str, Any]) -> Recipe:
    tested = {n: changes_of({"evaluate.split": "test"}, node) for n, node in arms.items()}
    return resolve_document(Document(sweep.document.shared, tested), FILE)


def trained_before(root: Path, sweep: Sweep, tickets: Tickets) -> dict[tuple[str, int], Path]:
    """Folders of all finished trials and finalists, by what decides their weights and the seed."""
    found: dict[tuple[str, int], Path] = {}
    known: dict[str, str] = {}
    for trial in tickets.trials():
        changes = tickets.values(trial) or trial.user_attrs.get("changes")
        digest = trial.user_attrs.get("hash")
        if changes is not None and digest and digest not in known:
            known[digest] = sweep.arm("trial", changes).training
    for file in sorted((root / TRIALS).glob("*/result.json")):
        result = read_json(file)
        if result is None:
            raise LabError(f"{file} cannot be read; move it away to fit again")
        training = known.get(str(result.get("hash")))
        if training is not None:
            found[training, int(result["seed"])] = file.parent
    return found
