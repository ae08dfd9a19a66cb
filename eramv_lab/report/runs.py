"""Finished fits as they lie on disk: which arms and seeds there are, and which are missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError, Problem, UserError, nearest
from eramv_lab.recipe.schema import METRICS, NEUTRAL
from eramv_lab.report.answers import Answer, read_answers
from eramv_lab.report.differences import flatten
from eramv_lab.report.search_file import SEARCH_FILE
from eramv_lab.report.shape import (
    Key,
    Shape,
    is_number,
    is_object,
    is_text,
    is_whole,
    list_of,
    read_object,
)

FOLDER = re.compile(r"(?P<arm>.+)-s(?P<seed>\d+)-(?P<hash>[0-9a-f]{8})")


_TEXT = Key(what="a name", sound=is_text)
_WHOLE = Key(what="a whole number from 0", sound=is_whole)
_MAYBE_OBJECT = Key(what="keys and values", sound=is_object, needed=False)
_MAYBE_OBJECTS = Key(what="a list of samples", sound=list_of(is_object), needed=False)
_MAYBE_NUMBER = Key(what="a number", sound=is_number, needed=False)
RESULT: Shape = {
    "study": _TEXT,
    "arm": _TEXT,
    "seed": _WHOLE,
    "row": Key(
        what="numbers by name", sound=lambda v: is_object(v) and any(map(is_number, v.values()))
    ),
    **{f"row.{name}": _MAYBE_NUMBER for name in METRICS},
    **{name: _MAYBE_OBJECT for name in ("recipe", "recipe.model", "cost")},
    **{name: _MAYBE_OBJECT for name in ("git", "versions", "data", "also")},
    **{f"data.{name}": _MAYBE_OBJECTS for name in ("skipped", "broken")},
}
"""What result.json must hold."""
STUDY: Shape = {
    "study": _TEXT,
    "arms": Key(what="names of arms", sound=lambda v: list_of(is_text)(v) and v != []),
    "seeds": Key(what="whole numbers from 0", sound=list_of(is_whole), needed=False),
    "question": Key(what="a sentence", sound=lambda v: isinstance(v, str), needed=False),
    "expect": _MAYBE_OBJECT,
    "league": _MAYBE_OBJECT,
}
"""What study.json must hold."""


@dataclass(frozen=True)
class Run:
    """One finished fit: one arm, one seed."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """The arm's name in its recipe."""
        return str(self.result["arm"])

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.result["seed"])

    @property
    def row(self) -> Mapping[str, Any]:
        """The numbers of the fit: accuracy, prices, measurements."""
        return self.result["row"]

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe of the arm, without its seed."""
        return {k: v for k, v in (self.result.get("recipe") or {}).items() if k != "seed"}

    @cached_property
    def meaning(self) -> dict[str, str]:
        """The keys of the recipe that can change a result: the same for all seeds of an arm."""
        return {k: v for k, v in flatten(self.recipe).items() if k not in NEUTRAL}

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Every question of the evaluation by key. Raises LabError where it cannot be read."""
        return read_answers(self.folder / "predictions.jsonl")

    @cached_property
    def also(self) -> dict[str, dict[str, Answer]]:
        """The same of each further held-out set, by its name."""
        names = self.result.get("also") or {}
        return {n: read_answers(self.folder / f"predictions_{n}.jsonl") for n in names}


@dataclass(kw_only=True)
class Arm:
    """One arm of a comparison with its finished seeds, in order."""

    name: str
    runs: list[Run] = field(default_factory=list[Run])
    missing: dict[int, str] = field(default_factory=dict[int, str])
    """Seeds without a result, each with what is known of it."""

    @property
    def seeds(self) -> list[int]:
        """The finished seeds."""
        return [run.seed for run in self.runs]


@dataclass(kw_only=True)
class Found:
    """What the names given to `compare` stand for."""

    study: str
    question: str
    arms: list[Arm]
    expect: Mapping[str, Any]
    notes: list[str]
    league: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What `study.json` tells of its league, where it is one."""


def find(names: Sequence[str], runs: Path) -> Found:
    """The arms that `names` (studies or run folders) stand for, in order; names of arms are unique.

    Raises UserError for a name that is neither.
    """
    parts = [_find_one(name, runs) for name in names]
    if len(parts) == 1:
        return parts[0]
    arms: list[tuple[str, Arm]] = []
    for part in parts:
        for arm in part.arms:
            same = next((a for study, a in arms if study == part.study and _same_arm(a, arm)), None)
            if same is None:
                arms.append((part.study, arm))
            else:  # run folders of one arm are its seeds
                known = set(same.seeds)
                more = [run for run in arm.runs if run.seed not in known]
                same.runs = sorted([*same.runs, *more], key=lambda run: run.seed)
    for name_of in (lambda study, arm: f"{study}/{arm.name}", lambda _, arm: arm.name + _at(arm)):
        names_now = [arm.name for _, arm in arms]
        for study, arm in arms:
            if names_now.count(arm.name) > 1:
                arm.name = name_of(study, arm)
    studies = list(dict.fromkeys(part.study for part in parts))
    return Found(
        study=", ".join(studies),
        question=parts[0].question if len(studies) == 1 else "",
        arms=[arm for _, arm in arms],
        expect={},
        notes=[note for part in parts for note in part.notes],
    )


def _same_arm(a: Arm, b: Arm) -> bool:
    if a.name != b.name or not (a.runs and b.runs):
        return a.name == b.name and not (a.runs or b.runs)
    return a.runs[0].meaning == b.runs[0].meaning


def _at(arm: Arm) -> str:
    """The hash of an arm's recipe, where its name alone does not tell it from another's."""
    return f"@{str(arm.runs[0].result.get('hash'))[:8]}" if arm.runs else "@unfinished"


def find_study(folder: Path) -> Found:
    """A study's arms in the order of its recipe, with what is missing.

    Seeds of an arm are only put together where their recipes are the same: the one that finished
    last decides, and results of another recipe are left out with a note. Raises LabError for a
    file of the study that cannot be read.
    """
    try:
        study = read_object(folder / "study.json", STUDY, "the plan of a study")
    except OSError as error:
        raise LabError(f"{folder / 'study.json'} cannot be read: {error}") from error
    by_arm = {name: Arm(name=name) for name in study["arms"]}
    finished: dict[str, list[Run]] = {name: [] for name in by_arm}
    states: dict[tuple[str, int], str] = {}
    for child in sorted(folder.iterdir()):
        name = FOLDER.fullmatch(child.name)
        if name is None or name["arm"] not in by_arm:
            continue
        run = read_run(child)
        if run is None:
            failed = (child / "error.txt").is_file()
            states[name["arm"], int(name["seed"])] = "failed" if failed else "not finished"
        elif (run.arm, run.seed) != (name["arm"], int(name["seed"])):
            raise LabError(
                f"{child / 'result.json'} is of arm {run.arm} and seed {run.seed}, "
                "which is not what its folder is called"
            )
        else:
            finished[run.arm].append(run)
    older: dict[str, int] = {}
    for name, arm in by_arm.items():
        candidates = sorted(finished[name], key=lambda r: str(r.result.get("finished", "")))
        same = [r for r in candidates if _same_recipe(r, candidates[-1])]
        if len(same) < len(candidates):
            older[name] = len(candidates) - len(same)
        latest = {run.seed: run for run in same}
        arm.runs = [latest[seed] for seed in sorted(latest)]
        for seed in study.get("seeds") or []:
            if seed not in latest:
                arm.missing[seed] = states.get((name, seed), "not run")
    return Found(
        study=study["study"],
        question=study.get("question") or "",
        arms=list(by_arm.values()),
        expect=study.get("expect") or {},
        notes=_left_out(older),
        league=study.get("league") or {},
    )


def _left_out(older: Mapping[str, int]) -> list[str]:
    """The note on how many results of each arm are of an older recipe; none where none is."""
    count = sum(older.values())
    whose = next(iter(older)) if len(older) == 1 else f"{len(older)} arms"
    what = "results of older recipes are" if count > 1 else "result of an older recipe is"
    return [f"{whose}: {count} {what} left out"] if older else []


def _same_recipe(a: Run, b: Run) -> bool:
    """Whether two results of an arm are of one recipe.

    The folder's hash says so too: an older result may lack keys that came later, which no hash
    knows while they are left alone.
    """
    hashes = {name["hash"] for run in (a, b) if (name := FOLDER.fullmatch(run.folder.name))}
    return a.meaning == b.meaning or len(hashes) == 1


def read_run(folder: Path) -> Run | None:
    """The finished fit in `folder`, None where there is no result (yet).

    Raises LabError with all that is missing or wrong in the result.
    """
    try:
        return Run(folder, read_object(folder / "result.json", RESULT, "a fit's result"))
    except FileNotFoundError:
        return None


def _find_one(name: str, runs: Path) -> Found:
    for folder in (runs / name, Path(name)):
        if (folder / "study.json").is_file():
            return find_study(folder)
        run = read_run(folder)
        if run is not None:
            arm = Arm(name=run.arm, runs=[run])
            study = str(run.result["study"])
            return Found(study=study, question="", arms=[arm], expect={}, notes=[])
        if folder.is_dir() and FOLDER.fullmatch(folder.name):
            raise UserError(f"{folder} has no result.json: the fit has not finished")
    files = [file for kind in ("study.json", SEARCH_FILE) for file in runs.glob(f"*/{kind}")]
    studies = sorted({file.parent.name for file in files})
    raise UserError(
        Problem(
            message=f"there is no study or run folder {name!r} in {runs}/"
            + ("" if studies else ", which holds no study yet: run `fit` first"),
            allowed=tuple(studies),
            nearest=nearest(name, studies),
        )
    )
