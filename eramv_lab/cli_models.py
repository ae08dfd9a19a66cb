"""The verb of finished models: `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eramv_lab.cli_args import Runs
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe import complete


def export(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] OUT",
            help="A fit's folder or its study, and the folder to write, a new one.",
            autocompletion=complete.studies,
        ),
    ],
    arm: Annotated[str | None, typer.Option(help="Of a study or a recipe: this arm.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study: this seed.")] = None,
    from_llava: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Build on this LLaVA (a folder or hub id), no RUN."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="What --from-llava builds.", autocompletion=complete.recipe_paths),
    ] = None,
    to_llava: Annotated[
        bool, typer.Option("--to-llava", help="Write what LLaVA can be in its own format.")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Send it to this repository of the hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="... that only you see.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Write a finished fit as a folder that transformers loads, with its card and hashes."""
    _check(from_llava, recipe, to_llava, push, private)
    names = ["OUT"] if from_llava else ["RUN", "OUT"]
    if len(places) != len(names):
        message = f"expected {' and '.join(names)}, found {' '.join(places)}"
        raise UserError(Problem(message=message, key="export"))
    name, out = places[0], Path(places[-1])
    from eramv_lab.export import push as hub

    if push is not None:
        hub.check_repo(push)
    if from_llava and recipe:
        from eramv_lab.model.convert import arm_section, convert_llava

        told = convert_llava(from_llava, out, arm_section(recipe, arm), seed=seed or 0)
        print(*told, sep="\n", end="\n" * bool(told), file=sys.stderr)
    elif to_llava:
        from eramv_lab.export.release import model_folder
        from eramv_lab.model.convert import to_llava as write_llava

        write_llava(model_folder(name, runs, arm, seed), out)
    else:
        from eramv_lab.export.release import export_run, find_run

        export_run(find_run(name, runs, arm, seed), out)
    print(out)
    if push is not None:
        print(hub.push(out, push, private=private))


def _check(
    from_llava: str | None, recipe: Path | None, to_llava: bool, push: str | None, private: bool
) -> None:
    """Raise UserError for options that need or exclude one another."""
    wrong = (
        ("--private", private and push is None, "goes with --push"),
        ("--recipe", recipe is not None and from_llava is None, "goes with --from-llava"),
        ("--from-llava", from_llava is not None and recipe is None, "needs --recipe"),
        ("--to-llava", to_llava and from_llava is not None, "and --from-llava: give one of them"),
    )
    if problems := [Problem(message=text, key=key) for key, found, text in wrong if found]:
        raise UserError(problems)
