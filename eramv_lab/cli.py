"""The verbs of the command line: each is a few lines that call into the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from eramv_lab import __version__, cli_cost, cli_models, cli_talk
from eramv_lab.cli_args import ArmNames, AsJson, Overrides, RecipePath, Runs, load, print_unreached
from eramv_lab.cli_data import data_app
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe import complete

app = typer.Typer(
    name="eramv-lab",
    help="Where and how should vision enter a language model, and what does it cost?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.command()(cli_models.analyse)
app.command()(cli_models.export)


# --- verbs


@app.command()
def fit(
    recipe: RecipePath,
    overrides: Overrides = None,
    arm: ArmNames = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Fits side by side.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train, evaluate, price and compare all arms and seeds; what is finished is skipped."""
    loaded = load(recipe, overrides, arm)
    from eramv_lab.train.study import run_study

    raise typer.Exit(run_study(loaded, arms=arm, seeds=seed, workers=workers, runs=runs))


@app.command()
def sweep(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="SWEEP", help="A YAML file.", autocompletion=complete.sweep_paths),
    ],
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials side by side.")] = None,
    trials: Annotated[
        str | None, typer.Option(help="Trials in all, or +N: so many more than before.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="What starts the workers: local, slurm, ray.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Search for the best setting within a budget; the same line again goes on."""
    from eramv_lab.sweep.load import load_sweep
    from eramv_lab.sweep.run import launcher_of, run_sweep, trials_of

    more = trials_of(trials)
    loaded = load_sweep(recipe, overrides or ())
    engine = launcher_of(loaded, launcher)
    raise typer.Exit(run_sweep(loaded, engine, workers=workers, more=more, runs=runs))


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Studies or run folders.", autocompletion=complete.studies),
    ],
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against FLOPs: a png, pdf or svg.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show what differs between arms, their accuracy with its interval, and their cost."""
    from eramv_lab.report.compare import main as compare_main

    raise typer.Exit(compare_main(names, runs, json=as_json, plot=plot))


app.command()(cli_cost.cost)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None, arm: ArmNames = None) -> None:
    """Check a recipe and say what it comes to, arm by arm; of a sweep, what it may try."""
    from eramv_lab.sweep.describe import is_sweep, sweep_lines

    if not arm and is_sweep(recipe, overrides):
        for line in sweep_lines(recipe, overrides):
            print(line)
        return
    loaded = load(recipe, overrides, arm)
    from eramv_lab.cost.show import facts
    from eramv_lab.recipe.diff import ABSENT, differences

    arms = [loaded.arm(name) for name in arm or loaded.arms]
    differ = differences([{**one.plain, "matched": {}} for one in arms])
    for place, one in enumerate(arms):
        print(f"{one.name} [{one.hash}]  {facts(one)}")
        for key, values in differ.items():
            if loaded.league and values[place] == ABSENT:
                continue  # of so many systems, the keys of others
            like = f"  (FLOPs of {one.matched[key]})" if key in one.matched else ""
            print(f"    {key}: {values[place]}{like}")
    print_unreached(loaded, arm)
    seeds = ", ".join(map(str, loaded.seeds))
    print(f"ok: {loaded.path}, {len(arms)} arm(s), seeds {seeds}")


@app.command("list")
def list_components(
    slot: Annotated[
        str | None,
        typer.Argument(help="Only this slot; or `systems`.", autocompletion=complete.slots),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Systems as plain JSON.")] = False,
) -> None:
    """List the slots and the components that can fill them; or the systems in experiments/."""
    if slot == "systems":
        from eramv_lab.cost.systems import print_systems

        print_systems(as_json)
        return
    if as_json:
        raise UserError(Problem(message="only systems are listed as JSON", key="--json"))
    from eramv_lab.recipe.describe import print_slots

    print_slots(slot)


@app.command()
def describe(
    name: Annotated[
        str,
        typer.Argument(
            help="A component (name or slot/name), a slot, a section, or a system.",
            autocompletion=complete.components,
        ),
    ],
) -> None:
    """Describe a component: what it does, its keys with type and default, where it lives."""
    from eramv_lab.recipe.describe import describe as page

    print("\n".join(page(name)))


@app.command()
def base(recipe: RecipePath, overrides: Overrides = None, arm: ArmNames = None) -> None:
    """Train the bases that a recipe's arms start from, where they are missing."""
    loaded = load(recipe, overrides, arm)
    from eramv_lab.train.start import ensure_base

    arms = [loaded.arm(name) for name in arm or loaded.arms]
    wanted = {
        (one.base_recipe.hash, one.base.seed): (one.base_recipe, one.base.seed, one.data.folder)
        for one in arms
        if one.base_recipe is not None
    }
    if not wanted:
        print("no arm of this recipe starts from a base")
    for found, seed, folder in wanted.values():
        print(ensure_base(found, seed, Path(folder)))


@app.command()
def ui(
    runs: Runs = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine only.")] = 5000,
) -> None:
    """Serve all runs to a browser on this machine."""
    from eramv_lab.track.ui import serve

    raise typer.Exit(serve(runs, port))


app.command()(cli_talk.generate)
app.command()(cli_talk.chat)


# --- the program


def _version(wanted: bool) -> None:
    if wanted:
        print(f"eramv_lab {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Where and how should vision enter a language model, and what does it cost?"""


def main() -> None:
    """Run the command line; what a user can mend is one message on stderr, never a traceback."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # plugins may stand in the working directory
    try:
        app(prog_name="eramv-lab")
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a folder that is a file, or may not be written; a full disk
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        mendable = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
        sys.exit(2 if isinstance(error, mendable) else 1)
