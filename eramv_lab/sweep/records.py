"""search.json: everything that is known of a search, for its readers; from the database alone."""

from __future__ import annotations

import importlib
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from eramv_lab.errors import LabError
from eramv_lab.sweep.domains import Choices, Domain
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.pricing import costs_of_arm
from eramv_lab.sweep.samplers import chosen
from eramv_lab.sweep.store import Tickets, cut_off
from eramv_lab.train.files import read_json, write_json

FILE = "search.json"
UNITS = {"prefill": ("prefill_tflops", 1e12), "parameters": ("parameters", 1.0)}
UNITS |= {"kv": ("kv_mib", 2.0**20)}
"""Column of the row, and its unit, of the costs that are known before a trial is trained."""


def write_records(
    root: Path,
    sweep: Sweep,
    tickets: Tickets,
    *,
    finals: Mapping[str, Any] | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Write the search.json of a study and return it; `finals` are its finalists and its best.

    `quick`: leave out what takes time to reckon; for a search that still runs.
    """
    trials = tickets.trials()
    study = tickets.study
    told = study.user_attrs
    records = [record(trial, tickets) for trial in trials]
    points = sweep.space.count()
    startups = [t.user_attrs["startup"] for t in trials if "startup" in t.user_attrs]
    found: dict[str, Any] = {
        "schema": 1,
        "study": root.name,
        "question": sweep.recipe.question,
        "goals": [{"metric": g.metric, "direction": g.direction} for g in sweep.goals],
        "budget": [
            {"name": one.name, "limit": one.value, "said": told.get("budget", {}).get(one.name, "")}
            for one in sweep.limits
        ],
        "reference": told["reference"],
        "space": {
            "keys": {key: _shown(domain) for key, domain in sweep.domains.items()},
            "points": points,
            "layers": sweep.layers(),
        },
        "sampler": chosen(sweep.sampler, sweep.settings.trials),
        "pruner": sweep.pruner.type,
        "asked": told["asked"],
        "seed": sweep.seeds[0],
        "spent": {
            "wall_seconds": told.get("wall_seconds"),
            "trial_seconds": sum(r["spent_seconds"] or 0.0 for r in records),
            "train_pflops": sum(r["train_pflops"] or 0.0 for r in records),
        },
        "startup_seconds": {
            "median": statistics.median(startups) if startups else None,
            "first": startups[0] if startups else None,
        },
        "trials": records,
        "importance": {} if quick else importance(study),
        **(finals or _kept(root)),
    }
    if read_json(root / FILE) != found:  # a report that is as new need not be written again
        write_json(root / FILE, found)
    return found


def _kept(root: Path) -> dict[str, Any]:
    """Finalists and best as they were known before."""
    before = read_json(root / FILE) or {}
    return {"finalists": before.get("finalists", []), "best": before.get("best")}


def record(trial: FrozenTrial, tickets: Tickets) -> dict[str, Any]:
    """What is known of one trial, flat."""
    told = trial.user_attrs
    costs: Mapping[str, float] = told.get("costs", {})
    priced = {column: costs[name] / unit for name, (column, unit) in UNITS.items() if name in costs}
    row: dict[str, Any] = dict(told.get("row", {}))
    band = told.get("band", [None, None])
    spent = (trial.datetime_complete or trial.datetime_start) and trial.duration
    columns = ("accuracy", "accuracy_low", "accuracy_high", "n", "loss", "train_pflops")
    columns += ("trainable", "visual_tokens", "fine_tokens", "latency_ms", "peak_mib", "seconds")
    return {
        "number": trial.number,
        "label": told.get("label", f"t{trial.number:03}"),
        "state": state_of(trial),
        "given": told.get("given"),
        "params": tickets.values(trial) or {},
        "values": trial.values if trial.state == TrialState.COMPLETE else None,
        "step": told.get("step"),
        **dict.fromkeys(("prefill_tflops", "parameters", "kv_mib")),
        **priced,
        **{name: row.get(name) for name in columns},
        "band_start": band[0],
        "band_length": band[1],
        "anchors": told.get("anchors"),
        "plain": bool(told.get("plain")),
        "resumed": int(told.get("resumed", 0)),
        "folder": told.get("folder"),
        "hash": told.get("hash"),
        "error": told.get("error"),
        "spent_seconds": spent.total_seconds() if spent else None,
    }


def state_of(trial: FrozenTrial) -> str:
    """complete, pruned, infeasible, failed, interrupted, running or waiting."""
    if trial.state == TrialState.PRUNED and trial.user_attrs.get("infeasible"):
        return "infeasible"
    if trial.state == TrialState.FAIL:
        return "interrupted" if cut_off(trial) else "failed"
    return trial.state.name.lower()


def importance(study: optuna.Study) -> dict[str, float]:
    """How much each searched key has to do with the (first) goal; empty where it cannot be said."""
    inside = [t for t in study.get_trials(deepcopy=False) if t.params]
    view = optuna.create_study(direction=study.directions[0])
    for trial in inside:
        if trial.state == TrialState.COMPLETE and trial.values:
            view.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    value=trial.values[0],
                )
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = importlib.import_module("optuna.importance").get_param_importances(view)
        except (ValueError, RuntimeError):  # too few trials, or all of one value
            return {}
    return {key: float(share) for key, share in found.items()}


def reference_of(sweep: Sweep) -> dict[str, Any]:
    """The corner that hypervolumes are measured from: nothing right, at the price of all tokens."""
    everything = {"model.anchors": "all", "model.band": "none", "model.reducer": "none"}
    try:
        costs, said = costs_of_arm(sweep.arm("all", everything)), "all patches"
    except LabError:
        looks = [look for v in sweep.space.corners() if (look := sweep.pricer.look(v))]
        costs, said = {k: max(look.costs[k] for look in looks) for k in UNITS}, "the dearest end"
    prices = {column: costs[name] / unit for name, (column, unit) in UNITS.items()}
    return {"accuracy": 0.0, **prices, "said": f"accuracy 0 at the price of {said}"}


def _shown(domain: Domain) -> Any:
    if isinstance(domain, Choices):
        return list(domain.words)
    number = int if domain.whole else float
    more: dict[str, Any] = {"log": True} if domain.log else {}
    more |= {"take": "largest"} if domain.largest else {}
    return {"from": number(domain.low), "to": number(domain.high), **more}


def finished(records: Sequence[Mapping[str, Any]]) -> int:
    """Trials that count: complete or pruned."""
    return sum(one["state"] in ("complete", "pruned") for one in records)
