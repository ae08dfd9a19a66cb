"""A finished fit let go: model, processor, recipe, card and hashes in one Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eramv_lab.errors import LabError, Problem, UserError, nearest
from eramv_lab.export.card import Card
from eramv_lab.export.files import copy_model, hashes, without_paths, write_hashes
from eramv_lab.export.usage import EXAMPLE, Example
from eramv_lab.files import new_folder
from eramv_lab.report.comparison import ArmResult, compare
from eramv_lab.report.runs import Arm, Found, Run, find, find_study
from eramv_lab.train.plan import PRUNED

RECIPE, BASE = "recipe.yaml", "base.yaml"
"""The resolved recipe, and that of its base beside it."""


def find_run(name: str, runs: Path, arm: str | None = None, seed: int | None = None) -> Run:
    """The one finished fit that `name`, a run folder or a study, stands for.

    Raises UserError where there is none, or several and `arm` and `seed` do not say which.
    """
    for folder in (runs / name, Path(name)):
        if (folder / PRUNED).is_file() and not (folder / "result.json").is_file():
            message = "this fit was ended early, by the pruner of its search, and has no weights"
            raise UserError(Problem(message=message, file=str(folder)))
    found = _sound(lambda: find([name], runs))
    arms = [one.name for one in found.arms]
    if arm is not None and arm not in arms:
        message = f"{name} has no arm {arm!r}"
        raise UserError(Problem(message=message, allowed=tuple(arms), nearest=nearest(arm, arms)))
    fits = [run for one in found.arms if arm in (None, one.name) for run in one.runs]
    chosen = [run for run in fits if seed in (None, run.seed)]
    if len(chosen) == 1:
        return chosen[0]
    seeds: dict[str, list[str]] = {}
    for run in chosen or fits:
        seeds.setdefault(run.arm, []).append(str(run.seed))
    there = tuple(f"--arm {one} --seed {'|'.join(own)}" for one, own in seeds.items())
    if chosen:
        message = f"{name} holds {len(chosen)} finished fits: say which"
        raise UserError(Problem(message=message, allowed=there))
    asked = [f"{k} {v}" for k, v in (("arm", arm), ("seed", seed)) if v is not None]
    message = " of ".join([f"{name} has no finished fit", *filter(None, [" and ".join(asked)])])
    raise UserError(Problem(message=message, allowed=there))


def is_model(name: str) -> bool:
    """Whether `name` is the folder of a model that is no fit."""
    folder = Path(name)
    return (folder / "config.json").is_file() and not (folder / "result.json").is_file()


def model_folder(name: str, runs: Path, arm: str | None = None, seed: int | None = None) -> Path:
    """The folder of a model that `name` stands for: its own, or that of a finished fit.

    Raises UserError as `find_run`.
    """
    return Path(name) if is_model(name) else find_run(name, runs, arm, seed).folder


def apart(source: Path, out: Path) -> None:
    """Raise UserError where `out` lies within the folder that is written from."""
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        message = f"lies within {source}, which stays as it is; name a folder elsewhere"
        raise UserError(Problem(message=message, file=str(out)))


def export_run(run: Run, out: Path, *, standalone: bool = False) -> None:
    """Write the folder of a finished fit that is let go to `out`, whole or not at all.

    `standalone`: with the code that runs it, so that transformers and torch are all it needs.

    It holds the model in safetensors with its configs and processor, `adapter/` where the fit has
    one, the resolved recipe (and that of its base), an image to try where the data is the made
    world, the card as README.md, and files.json with the sha256 of every file. Raises UserError
    for an `out` that holds something and for a fit whose files are missing or broken.
    """
    apart(run.folder, out)
    scored = _scored(run)
    with new_folder(out) as fresh:
        copy_model(run.folder, fresh)
        if standalone:
            from eramv_lab.export.standalone import write_standalone

            write_standalone(fresh, fresh)
        whole = write_recipe(run, fresh)
        card = Card(
            name=out.resolve().name,
            run=run,
            scored=scored,
            seeds=_seeds(run),
            command=_command(run) if whole else "",
            example=_example(run, fresh),
            standalone=standalone,
            files=hashes(fresh),
        )
        (fresh / "README.md").write_text(card.text(), encoding="utf-8")
        write_hashes(fresh)


def _sound(read: Any) -> Any:
    """What `read` returns; what cannot be read of a run is the user's to mend."""
    try:
        return read()
    except UserError:
        raise
    except LabError as error:
        raise UserError(str(error)) from None


def _scored(run: Run) -> ArmResult:
    """Accuracy by question type, its intervals clustered by image, from the fit's own answers."""
    study, arm = str(run.result["study"]), Arm(name=run.arm, runs=[run])
    found = Found(study=study, question="", arms=[arm], expect={}, notes=[])
    return _sound(lambda: compare(found)).arms[0]


def _seeds(run: Run) -> dict[int, float]:
    """Accuracy of the arm's finished seeds in the run's study, this one's at least."""
    found = {run.seed: run}
    if (run.folder.parent / "study.json").is_file():
        arms = _sound(lambda: find_study(run.folder.parent)).arms
        same = [r for arm in arms for r in arm.runs if r.result.get("hash") == run.result["hash"]]
        found |= {r.seed: r for r in same}
    return {seed: float(found[seed].row["accuracy"]) for seed in sorted(found)}


def write_recipe(run: Run, folder: Path) -> bool:
    """Write the resolved recipe, and its base's beside it, free of this machine's paths.

    Returns whether they read back to the very fit, by its hash. Where they do not (its base, its
    data or a checkpoint is not here, or the program has changed) the recipe stands alone.
    """
    from eramv_lab.recipe.resolve import load_recipe

    plain = without_paths(dict(run.result.get("recipe") or {}))
    if isinstance(plain.get("data"), dict):
        plain["data"]["folder"] = "data"  # where it lies changes no result
    try:
        (arm,) = load_recipe(run.folder / RECIPE).arms.values()
        if arm.base_recipe is not None:
            _write_yaml(folder / BASE, {"kind": "base", **arm.base_recipe.plain})
            beside = plain | {"base": plain["base"] | {"recipe": BASE}}
            _write_yaml(folder / RECIPE, beside)
        else:
            _write_yaml(folder / RECIPE, plain)
        (again,) = load_recipe(folder / RECIPE).arms.values()
        if again.hash == run.result.get("hash"):
            return True
    except UserError:
        pass
    (folder / BASE).unlink(missing_ok=True)
    _write_yaml(folder / RECIPE, plain)
    return False


def _write_yaml(file: Path, plain: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _command(run: Run) -> str:
    """The line that fits it: by its study's own recipe where that lies below the working folder."""
    recipe, line = RECIPE, f"--seed {run.seed}"
    try:
        study = json.loads((run.folder.parent / "study.json").read_text(encoding="utf-8"))
        written = Path(study["recipe_file"])
        if not written.is_absolute() and ".." not in written.parts:
            arm = f"--arm {run.arm} " if len(study["arms"]) > 1 else ""
            recipe, line = written.as_posix(), arm + line
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return f"python -m eramv_lab fit {recipe} {line}"


def _example(run: Run, folder: Path) -> Example | None:
    """The first held-out question that the model answered rightly, its image drawn anew.

    None where the data is not the made world, or no answer was right.
    """
    from eramv_lab.data.images import png
    from eramv_lab.data.world.scene import make_scene
    from eramv_lab.recipe.schema import parse_data

    section = (run.result.get("recipe") or {}).get("data") or {}
    right = next((answer for answer in run.answers.values() if answer.score == 1), None)
    data = parse_data(section, []) if section.get("type") == "world" else None
    if data is None or right is None:
        return None
    split, _, number = right.image.rpartition("-")
    scene = make_scene(data.world, split, int(number))
    (folder / EXAMPLE).write_bytes(png(scene.image))
    return Example(question=right.question, answer=right.answer)
