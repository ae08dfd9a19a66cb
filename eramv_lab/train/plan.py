"""What a study has to do: fits, the folders they live in, and the jobs that come before them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.base import Base, digest
from eramv_lab.recipe.resolve import Recipe
from eramv_lab.recipe.schema import SOURCES
from eramv_lab.train.files import read_json
from eramv_lab.train.pool import Job

FIT = "eramv_lab.train.fit:fit_one"
PREPARE = "eramv_lab.train.prepare"
CHECKPOINTS, CHECKPOINT = "checkpoints", re.compile(r"step-(\d+)\.pt")
"""Folder of a fit's checkpoints, and the name of each."""
PRUNED = "pruned.json"
"""What a fit that was ended early leaves in place of a result."""
FOLDER = re.compile(r".+-s\d+-[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One arm with one seed."""

    study: str
    arm: Arm
    seed: int
    folder: Path
    trained: Path | None = None
    """The fit with the same training, where there is one: its weights are taken as they are."""

    @property
    def key(self) -> str:
        """Unique in the study; also the name of the folder."""
        return self.folder.name

    @property
    def label(self) -> str:
        """As a reader sees it."""
        return f"{self.arm.name} s{self.seed}"

    def result(self) -> dict[str, Any] | None:
        """The finished result; None where there is none. Raises LabError for one that is broken."""
        file = self.folder / "result.json"
        result = read_json(file)
        if result is None and not file.exists():
            return None
        if result is None or result.get("hash") != self.arm.hash:
            raise LabError(f"{file} is not a result of this arm; move it away to fit again")
        return result

    def parent(self) -> Fit | None:
        """The fit whose finished weights it starts from."""
        if self.arm.parent is None:
            return None
        return fit_of(self.arm.parent, self.seed, self.study, self.folder.parent)

    def start(self) -> dict[str, str]:
        """Folder of the base, model or arm that it starts from; empty for random weights."""
        parent = self.parent()
        if parent is not None:
            return {"arm": str(parent.folder)}
        if self.arm.released is not None:
            return {"model": self.arm.released.folder}
        base = base_of(self.arm)
        return {"base": str(base)} if base else {}

    def plan(self, track: str | None = None) -> dict[str, Any]:
        """Everything that the fit's process needs to know, plain; `track` names the MLflow run."""
        return {
            "study": self.study,
            "arm": self.arm.name,
            "seed": self.seed,
            "hash": self.arm.hash,
            "recipe": self.arm.with_seed(self.seed).plain,
            "start": self.start(),
            "trained": str(self.trained) if self.trained else None,
            "track": track,
        }


def fit_of(arm: Arm, seed: int, study: str, root: Path) -> Fit:
    """The fit of an arm and a seed, with its folder in `root`, the study's."""
    return Fit(study=study, arm=arm, seed=seed, folder=root / f"{arm.name}-s{seed}-{arm.hash}")


def plan_fits(
    recipe: Recipe, root: Path, arms: Sequence[str] | None, seeds: Sequence[int] | None
) -> list[Fit]:
    """The fits asked for, seed by seed, each behind those whose weights it starts from."""
    chosen = [recipe.arm(name) for name in arms] if arms else list(recipe.arms.values())
    fits: dict[str, Fit] = {}

    def add(arm: Arm, seed: int) -> None:
        if arm.parent is not None:
            add(arm.parent, seed)
        fit = fit_of(arm, seed, recipe.name, root)
        fits.setdefault(fit.key, fit)

    for seed in seeds if seeds else recipe.seeds:
        for arm in chosen:
            add(arm, seed)
    return list(fits.values())


def base_folder(base: Base, seed: int, root: Path) -> Path:
    """Where the base of that seed lies: `<root>/bases/<hash>-s<seed>`."""
    return root / "bases" / f"{base.hash}-s{seed}"


def base_of(arm: Arm) -> Path | None:
    """The folder of the base that an arm starts from."""
    if arm.base_recipe is None:
        return None
    return base_folder(arm.base_recipe, arm.base.seed, Path(arm.data.folder))


def data_sections(arm: Arm) -> list[dict[str, Any]]:
    """The plain `data:` sections that a fit reads: its own, then those of its further sets."""
    own = arm.plain["data"]
    common = {key: value for key, value in own.items() if key not in SOURCES}
    return [own, *({**common, **one} for one in arm.plain["evaluate"]["also"].values())]


def clear(fit: Fit) -> None:
    """An empty folder for a fit that has not finished; one that holds a checkpoint stays.

    Never touches one that has a result.
    """
    folder = fit.folder
    if (folder / "result.json").exists():
        raise LabError(f"{folder} has a result, which is never overwritten")
    if folder.is_symlink() or (folder.exists() and not FOLDER.fullmatch(folder.name)):
        raise LabError(f"{folder} is not a folder of a fit")
    if checkpoint_steps(folder):
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints of a fit, newest first (`train.checkpoint` writes them)."""
    files = (path for path in (folder / CHECKPOINTS).glob("*") if path.is_file())
    found = (CHECKPOINT.fullmatch(path.name) for path in files)
    return sorted((int(match[1]) for match in found if match), reverse=True)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a fit that has its result, or was ended early."""
    ended = (folder / "result.json").exists() or (folder / PRUNED).exists()
    if ended and (folder / CHECKPOINTS).is_dir():
        shutil.rmtree(folder / CHECKPOINTS)


def ranks_of(arm: Arm, gpus: int) -> int:
    """Processes of a fit on one machine that gives it so many graphics cards."""
    devices = arm.trainer.devices
    return max(1, gpus) if devices == "auto" else devices


def prepare_jobs(
    fits: Sequence[Fit], root: Path, processes: int
) -> tuple[list[Job], dict[str, list[str]]]:
    """The jobs that make what `fits` share (data, bases, features), and which each fit needs."""
    jobs: dict[str, Job] = {}
    needs: dict[str, list[str]] = {}

    def add(kind: str, name: str, after: Sequence[str] = (), **args: Any) -> str:
        key = f"{kind} {name}"
        folder = root / ".prepare" / f"{kind}-{name}"
        jobs.setdefault(
            key,
            Job(
                key=key,
                target=f"{PREPARE}:{kind}",
                folder=folder,
                args=args | {"folder": str(folder)},
                after=tuple(after),
                kind=kind,
            ),
        )
        return key

    for fit in fits:
        arm = fit.arm
        sets = data_sections(arm)
        first = [add("data", digest(s), section=s, processes=processes) for s in sets]
        folder = base_of(arm)
        begins = arm.released.hash if arm.released else ""
        if folder is not None and arm.base_recipe is not None:
            base = add(
                "base",
                folder.name,
                recipe=arm.base_recipe.plain,
                seed=arm.base.seed,
                target_folder=str(folder),
            )
            first.append(base)
            begins = folder.name
        needs[fit.key] = list(first)
        pretrained = begins or getattr(arm.spec.vision, "path", None)
        if pretrained and arm.parent is None and arm.train.roles.vision == "frozen":
            tower = digest([*sets, pretrained, arm.plain["model"]["vision"]])
            needs[fit.key].append(add("features", tower, first, plan=fit.plan()))
    return list(jobs.values()), needs


def fit_jobs(
    fits: Sequence[Fit],
    needs: Mapping[str, Sequence[str]],
    target: str = FIT,
    track: str | None = None,
    gpus: int = 0,
) -> list[Job]:
    """The jobs of the fits themselves, each after what it needs and the fit it starts from.

    `target` is called with `run_dir` and `plan`; `track` is the file that names the study's MLflow
    run, `gpus` the number of cards that each fit has.
    """
    keys = {fit.key for fit in fits}
    jobs: list[Job] = []
    for fit in fits:
        parent = fit.parent()
        first = [parent.key] if parent and parent.key in keys else []
        jobs.append(
            Job(
                key=fit.key,
                target=target,
                folder=fit.folder,
                args={"run_dir": str(fit.folder), "plan": fit.plan(track)},
                after=(*needs.get(fit.key, ()), *first),
                ranks=ranks_of(fit.arm, gpus),
            )
        )
    return jobs
