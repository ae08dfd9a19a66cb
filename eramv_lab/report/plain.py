"""A comparison as plain data, for programs: what `compare --json` prints."""

from __future__ import annotations

import dataclasses
from typing import Any

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.report.comparison import ArmResult, Comparison
from eramv_lab.report.league import Standings


def to_plain(comparison: Comparison) -> dict[str, Any]:
    """`{"arms": {name: {"accuracy", "per_type", "also", "cost", "difference", "changed"}}, ...}`.

    `per_seed` stands in the order of `seeds`. An arm without a finished seed has None for numbers.
    """
    league = {"league": _league_plain(comparison.league)} if comparison.league else {}
    return {
        "study": comparison.study,
        "question": comparison.question,
        "reference": comparison.reference,
        "arms": {arm.name: _arm_plain(arm, comparison.reference) for arm in comparison.arms},
        "expect": [dataclasses.asdict(e) for e in comparison.expectations],
        "notes": comparison.notes,
        **league,
    }


def _league_plain(league: Standings) -> dict[str, Any]:
    """The order at each budget; the numbers of each arm stand in `arms`."""
    lines = [
        {
            "arm": line.arm.name,
            "system": line.system,
            "name": line.name,
            "budget": line.budget,
            "prefill_share": line.share,
            "null_line": line.null,
            "over_null": {"to": d.to, **_plain(d.estimate)} if (d := line.to_null) else None,
        }
        for line in league.lines
    ]
    return {
        "full": league.full,
        "null": league.null,
        "budgets": [group.budget for group in league.groups],
        "lines": lines,
        "unreached": league.unreached,
    }


def _arm_plain(arm: ArmResult, reference: str) -> dict[str, Any]:
    missing = {"missing": {str(seed): state for seed, state in arm.missing.items()}}
    plain: dict[str, Any] = {
        "accuracy": _plain(arm.accuracy) | {"per_seed": arm.per_seed, "seeds": arm.seeds} | missing,
        "per_type": {kind: _plain(estimate) for kind, estimate in arm.per_type.items()},
        "also": {name: _plain(estimate) for name, estimate in arm.also.items()},
        "captions": {
            name: _plain(score.estimate)
            | {"difference": _plain(score.difference) if score.difference else None}
            for name, score in arm.captions.items()
        },
        "cost": arm.cost,
        "difference": {"to": reference, "mean": None, "low": None, "high": None},
        "changed": arm.changed,
    }
    if arm.name == reference:
        plain["difference"] |= {"mean": 0.0, "low": 0.0, "high": 0.0}
    elif (d := arm.difference) is not None:
        plain["difference"] |= _plain(d.estimate) | {
            "p": d.p,
            "p_holm": d.p_holm,
            "detectable": d.estimate.detectable,
            "seeds": d.seeds,
            "mcnemar": [dataclasses.asdict(t) if t else None for t in d.tests],
        }
    return plain


def _plain(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"mean": None, "low": None, "high": None}
    return {
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "images": estimate.clusters,
        "from_questions": estimate.from_questions,
        "from_seeds": estimate.from_seeds,
        "sd_seeds": estimate.sd_seeds,
    }
