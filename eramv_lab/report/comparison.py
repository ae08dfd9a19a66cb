"""The comparison of arms: means, intervals and paired differences on the same questions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from eramv_lab.errors import UserError
from eramv_lab.evaluate.statistics import Estimate, accuracy, holm
from eramv_lab.report import expect
from eramv_lab.report.captions import SIZES, CaptionScore, captions_of, without_captions
from eramv_lab.report.differences import differing
from eramv_lab.report.further import further_sets, learning
from eramv_lab.report.league import Standings, standings
from eramv_lab.report.origins import origin_notes
from eramv_lab.report.paired import Difference, Scored, difference
from eramv_lab.report.runs import Arm, Found, Run


@dataclass(kw_only=True)
class ArmResult:
    """One line of the table."""

    name: str
    seeds: list[int]
    missing: dict[int, str]
    accuracy: Estimate | None
    """None where no seed has finished."""
    per_seed: list[float]
    per_type: dict[str, Estimate]
    also: dict[str, Estimate]
    """Accuracy on further held-out sets, by name."""
    captions: dict[str, CaptionScore]
    """`cider` and `facts` of the captions, which accuracy leaves out."""
    cost: dict[str, float]
    """Numbers of the row and of the price, as means over the seeds."""
    changed: dict[str, str]
    """The recipe keys that differ between the arms."""
    plain: str | None = None
    """The selector, where there is neither band nor reducer: a point of the null line."""
    difference: Difference | None = None
    """None for the first arm, and where no seed is shared with it."""


@dataclass(kw_only=True)
class Comparison:
    """Everything that a table, a plot or a program needs to know of some arms."""

    study: str
    question: str
    arms: list[ArmResult]
    expectations: list[expect.Expectation]
    notes: list[str]
    """What a reader must know: missing seeds, where results come from, what intervals cover."""
    types: list[str] = field(default_factory=list[str])
    also: list[str] = field(default_factory=list[str])
    """Further held-out sets."""
    learn_apart: bool = False
    """Whether other parts learn in one arm than in another."""
    league: Standings | None = None
    """Its standings, where the study is a league."""

    @property
    def reference(self) -> str:
        """The arm that the others are compared with: the first."""
        return self.arms[0].name


def compare(found: Found) -> Comparison:
    """All arms in order. Raises UserError where arms were not asked the same questions."""
    finished = [arm for arm in found.arms if arm.runs]
    if not finished:
        raise UserError(f"{found.study}: no fit has finished yet")
    keys = _same_questions(finished)
    sample = finished[0].runs[0].answers
    captions = captions_of(finished, keys)
    keys = without_captions(sample, keys)
    images = [sample[key].image for key in keys]
    kinds = np.array([sample[key].type for key in keys])
    types = list(dict.fromkeys(kinds.tolist()))
    scores = {a.name: Scored(a.name, a.seeds, _scores(a.runs, keys)) for a in finished}
    changed = differing([arm.runs[0].meaning for arm in finished])
    column = {arm.name: i for i, arm in enumerate(finished)}
    further, unlike = further_sets(finished)
    results: list[ArmResult] = []
    for arm in found.arms:
        if not arm.runs:
            results.append(_unfinished(arm))
            continue
        table = scores[arm.name].table
        results.append(
            ArmResult(
                name=arm.name,
                seeds=arm.seeds,
                missing=arm.missing,
                accuracy=accuracy(table, images),
                per_seed=table.mean(axis=1).tolist(),
                per_type={
                    kind: accuracy(
                        table[:, kinds == kind],
                        [i for i, k in zip(images, kinds, strict=True) if k == kind],
                    )
                    for kind in types
                },
                also=further[arm.name],
                captions=captions.scores(arm.name, found.arms[0].name),
                cost=_cost(arm.runs),
                changed={key: values[column[arm.name]] for key, values in changed.items()},
                plain=_plain_selector(arm.runs[0].recipe),
            )
        )
    _differences(results, scores, images)
    return Comparison(
        study=found.study,
        question=found.question,
        arms=results,
        expectations=_expectations(found.expect, results, finished),
        notes=found.notes + origin_notes(finished) + unlike + _notes(results, bool(found.league)),
        types=types,
        also=list(dict.fromkeys(name for sets in further.values() for name in sets)),
        learn_apart=len({learning(arm) for arm in finished}) > 1,
        league=(
            standings(found.league, results, scores, images, captions) if found.league else None
        ),
    )


def _unfinished(arm: Arm) -> ArmResult:
    return ArmResult(
        name=arm.name,
        seeds=[],
        missing=arm.missing,
        accuracy=None,
        per_seed=[],
        per_type={},
        also={},
        captions={},
        cost={},
        changed={},
    )


def _same_questions(arms: Sequence[Arm]) -> list[str]:
    """The keys that every run has, in the first one's order; UserError where any differs."""
    first = arms[0].runs[0]
    asked = {key: (a.question, a.answer) for key, a in first.answers.items()}
    wrong: list[str] = []
    for arm in arms:
        for run in arm.runs:
            here = {key: (a.question, a.answer) for key, a in run.answers.items()}
            if here == asked:
                continue
            lacks, adds = len(asked.keys() - here), len(here.keys() - asked)
            other = sum(asked[key] != here[key] for key in asked.keys() & here)
            wrong.append(
                f"{arm.name} seed {run.seed}: {lacks} missing, {adds} more, {other} other questions"
            )
    if wrong:
        raise UserError(
            "these arms were not asked the same questions, so they cannot be compared "
            f"(against {arms[0].name} seed {first.seed}, {len(asked)} questions):\n    "
            + "\n    ".join(wrong)
        )
    return list(asked)


def _scores(runs: Sequence[Run], keys: Sequence[str]) -> np.ndarray:
    return np.array([[run.answers[key].score for key in keys] for run in runs])


def _cost(runs: Sequence[Run]) -> dict[str, float]:
    """Means over seeds of every number that each run's row or price has."""
    tables: list[Mapping[str, Any]] = [
        {**(run.result.get("cost") or {}), **run.row} for run in runs
    ]
    return {
        key: statistics.fmean(float(table[key]) for table in tables)
        for key in tables[0]
        if not (key == "n" or key.startswith(("accuracy", *SIZES)))
        and all(_is_number(t.get(key)) for t in tables)
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _plain_selector(recipe: Mapping[str, Any]) -> str | None:
    model = recipe.get("model") or {}
    if any(model.get(slot, "none") not in ("none", None, []) for slot in ("band", "reducer")):
        return None
    anchors = model.get("anchors", "none")
    return str(anchors.get("type") if isinstance(anchors, Mapping) else anchors)


def _differences(
    results: Sequence[ArmResult], scores: Mapping[str, Scored], images: Sequence[str]
) -> None:
    """Fill in `difference` of every arm that shares a seed with the first."""
    first = scores.get(results[0].name)
    for arm in results[1:]:
        if first and arm.name in scores:
            arm.difference = difference(scores[arm.name], first, images)
    others = [arm.difference for arm in results if arm.difference]
    for one, p in zip(others, holm([d.p for d in others]), strict=True):
        one.p_holm = p


def _expectations(
    bounds: Mapping[str, Any], results: Sequence[ArmResult], finished: Sequence[Arm]
) -> list[expect.Expectation]:
    values = {
        arm.name: arm.cost
        | {kind: e.mean for kind, e in arm.per_type.items()}
        | {f"accuracy_{name}": e.mean for name, e in arm.also.items()}
        | {name: score.estimate.mean for name, score in arm.captions.items()}
        | {"accuracy": arm.accuracy.mean}
        for arm in results
        if arm.accuracy
    }
    seconds = [run.row.get("seconds") for arm in finished for run in arm.runs]
    longest = max((s for s in seconds if _is_number(s)), default=None)
    return expect.check(bounds, values, None if longest is None else longest / 60)


def _notes(results: Sequence[ArmResult], league: bool) -> list[str]:
    notes = [
        f"{arm.name}: left out of its mean: "
        + ", ".join(f"seed {seed} ({state})" for seed, state in arm.missing.items())
        for arm in results
        if arm.missing
    ]
    first = results[0]
    estimate = next(arm.accuracy for arm in results if arm.accuracy)
    counts = {len(arm.seeds) for arm in results if arm.seeds}
    cover = "which questions were drawn (clustered by image)"
    if counts == {1}:
        cover += "; one seed: how much training varies is not covered"
    elif 1 in counts:
        cover += " and, for arms with more than one seed, which seeds were trained"
    else:
        cover += " and which seeds were trained"
    notes.append(
        f"95 % intervals over {estimate.n} questions on {estimate.clusters} images; "
        f"they cover {cover}."
    )
    if any(arm.difference for arm in results):
        tested = (
            "; p: exact McNemar, the largest of the seeds, Holm-corrected for the number of arms"
        )
        notes.append(
            f"Differences are to {first.name}, on the same questions and seeds"
            f"{'' if league else tested}."  # a league shows no p
        )
    near = [
        f"{arm.name} ({d.estimate.detectable:.3f})"
        for arm in results
        if (d := arm.difference) and abs(d.estimate.mean) < d.estimate.detectable
    ]
    if near:
        notes.append(
            f"Closer to {first.name} than what so many questions and seeds can reliably tell "
            "apart (given per arm): " + ", ".join(near)
        )
    alone = [arm.name for arm in results[1:] if arm.seeds and not arm.difference]
    if not first.seeds:
        notes.append(f"{first.name} has not finished: nothing is compared with it.")
    elif alone:
        notes.append(f"No seed shared with {first.name}, so no difference: " + ", ".join(alone))
    return notes
