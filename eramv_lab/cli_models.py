"""The verbs of finished models: `export` and `analyse`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from eramv_lab.cli_args import AsJson, Runs
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
    standalone: Annotated[
        bool, typer.Option("--standalone", help="... with the code that runs it without us.")
    ] = False,
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
    ways = {"--from-llava": from_llava, "--to-llava": to_llava, "--standalone": standalone}
    _check(ways, recipe, push, private)
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
        from eramv_lab.export.release import apart, model_folder
        from eramv_lab.model.convert import to_llava as write_llava

        source = model_folder(name, runs, arm, seed)
        apart(source, out)
        write_llava(source, out)
    else:
        from eramv_lab.export.release import apart, export_run, find_run, is_model

        if standalone and is_model(name):
            from eramv_lab.export.standalone import write_standalone

            apart(Path(name), out)
            write_standalone(Path(name), out)
        else:
            export_run(find_run(name, runs, arm, seed), out, standalone=standalone)
    print(out)
    if push is not None:
        print(hub.push(out, push, private=private))


def analyse(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A fit's folder or its study.",
            autocompletion=complete.studies,
        ),
    ],
    arm: Annotated[str | None, typer.Option(help="Of a study: this arm.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study: this seed.")] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Measure by so many, the first of its split `val`.")
    ] = 40,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="VTW's for its layer; the paper's for 7B, and .0005 for 13B."),
    ] = 0.003,
    device: Annotated[
        str, typer.Option(help="auto (a GPU where there is one), cpu, cuda.")
    ] = "auto",
    as_json: AsJson = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show what each layer does with vision, and the layers that VTW and ShortV would choose."""
    from eramv_lab.export.release import find_run

    run = find_run(name, runs, arm, seed)
    from eramv_lab.analyse.fitted import analyse_run
    from eramv_lab.analyse.show import print_layers, to_plain
    from eramv_lab.talk.model import device_of

    found = analyse_run(run, images=images, tolerance=tolerance, device=device_of(device))
    if as_json:
        import json

        print(json.dumps(to_plain(found), indent=2))
    else:
        print_layers(found)


def _check(
    ways: Mapping[str, object], recipe: Path | None, push: str | None, private: bool
) -> None:
    """Raise UserError for options that need or exclude one another."""
    given, built = [way for way, asked in ways.items() if asked], bool(ways["--from-llava"])
    wrong = (
        (" and ".join(given), len(given) > 1, "give one of them"),
        ("--from-llava", built and recipe is None, "needs --recipe"),
        ("--recipe", recipe is not None and not built, "goes with --from-llava"),
        ("--private", private and push is None, "goes with --push"),
    )
    if problems := [Problem(message=text, key=key) for key, found, text in wrong if found]:
        raise UserError(problems)
