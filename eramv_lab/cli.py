"""The verbs of the command line: each is a few lines that call into the package."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eramv_lab import __version__
from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe import complete

if TYPE_CHECKING:
    from eramv_lab.recipe.resolve import Recipe

app = typer.Typer(
    name="eramv-lab",
    help="Where and how should vision enter a language model, and what does it cost?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make the data of a recipe, or look at it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DEFAULT_RECIPE = Path("experiments/base.yaml")


RecipePath = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="A YAML file.", autocompletion=complete.recipe_paths),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys to change for all arms (train.lr=1e-3), or one (arms.NAME.train.lr=1e-3).",
        autocompletion=complete.overrides,
    ),
]
ArmNames = Annotated[
    list[str] | None,
    typer.Option(
        "--arm", help="Only this arm; may be repeated.", autocompletion=complete.arm_names
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder of all results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Plain JSON instead of a table.")]


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
    loaded = _load(recipe, overrides, arm)
    from eramv_lab.train.study import run_study

    raise typer.Exit(run_study(loaded, arms=arm, seeds=seed, workers=workers, runs=runs))


@app.command()
def sweep(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="SWEEP", help="A YAML file.", autocompletion=complete.recipe_paths),
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


@app.command()
def cost(
    recipe: RecipePath,
    overrides: Overrides = None,
    arm: ArmNames = None,
    text_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Price for so many rows that are not visual; matches are still solved at the "
            "recipe's own cost.text_tokens.",
        ),
    ] = None,
    count: Annotated[bool, typer.Option(help="Count on the meta device too; must agree.")] = False,
    as_json: AsJson = False,
) -> None:
    """Price every arm by the closed form, without weights or data."""
    loaded = _load(recipe, overrides, arm)
    from eramv_lab.cost.show import price_arm, print_costs, verify

    arms = {name: loaded.arm(name) for name in arm or loaded.arms}
    if text_tokens is not None:
        arms = {
            name: replace(one, cost=replace(one.cost, text_tokens=text_tokens))
            for name, one in arms.items()
        }
    costs = {name: price_arm(one) for name, one in arms.items()}
    for name, one in arms.items() if count else ():
        print(f"{name}: counted {verify(one)} FLOPs, as the closed form says", file=sys.stderr)
    if as_json:
        import json

        flat = {name: one.to_json() for name, one in costs.items()}
        print(json.dumps({"arms": flat} if loaded.has_arms else flat["main"], indent=1))
    else:
        print_costs(costs)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None, arm: ArmNames = None) -> None:
    """Check a recipe and say what it comes to, arm by arm."""
    loaded = _load(recipe, overrides, arm)
    from eramv_lab.cost.show import facts
    from eramv_lab.recipe.diff import differences

    arms = [loaded.arm(name) for name in arm or loaded.arms]
    differ = differences([{**one.plain, "matched": {}} for one in arms])
    for place, one in enumerate(arms):
        print(f"{one.name} [{one.hash}]  {facts(one)}")
        for key, values in differ.items():
            like = f"  (FLOPs of {one.matched[key]})" if key in one.matched else ""
            print(f"    {key}: {values[place]}{like}")
    seeds = ", ".join(map(str, loaded.seeds))
    print(f"ok: {loaded.path}, {len(arms)} arm(s), seeds {seeds}")


@app.command("list")
def list_components(
    slot: Annotated[
        str | None, typer.Argument(help="Only this slot.", autocompletion=complete.slots)
    ] = None,
) -> None:
    """List the slots and the components that can fill them."""
    from eramv_lab.recipe.describe import print_slots

    print_slots(slot)


@app.command()
def describe(
    name: Annotated[
        str,
        typer.Argument(
            help="A component (name or slot/name), a slot, or a section of recipes.",
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
    loaded = _load(recipe, overrides, arm)
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


@data_app.command("make")
def data_make(recipe: RecipePath = DEFAULT_RECIPE, overrides: Overrides = None) -> None:
    """Make the shards of a recipe's data, where they are missing."""
    loaded = _load(recipe, overrides)
    from eramv_lab.data.local import local_folders

    made = {folder: None for one in loaded.arms.values() for folder in local_folders(one.data)}
    print("\n".join(map(str, made)))


@data_app.command("import")
def data_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.json", help="LLaVA's training JSON, or JSON lines.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder of shards to make.")],
    images: Annotated[Path, typer.Option(help="Folder that the image paths are below.")],
    test: Annotated[
        Path | None, typer.Option(help="A file of the same form, the held-out split.")
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Else the share of all images to hold out; 0.02.")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="Likewise, what searches look at.")] = None,
    val_share: Annotated[float | None, typer.Option(help="Else a share; 0.01, 0: none.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Side by side; one per CPU, at most eight.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples of a shard.")] = 1000,
) -> None:
    """Turn LLaVA-format data into shards; what cannot be used is named, and a rerun goes on."""
    from eramv_lab.data.importing import import_llava

    shares = {"hold_out": hold_out, "val_share": val_share, "test": test, "val": val}
    import_llava(file, images, out, processes=processes, shard_size=shard_size, **shares)


@data_app.command("inspect")
def data_inspect(
    recipe: RecipePath = DEFAULT_RECIPE,
    overrides: Overrides = None,
    arm: Annotated[
        str | None,
        typer.Option(help="Whose anchors; the first.", autocompletion=complete.arm_names),
    ] = None,
    split: Annotated[str, typer.Option(help="train, test or val.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 8,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("runs/sheet.png"),
) -> None:
    """Draw a sheet of scenes, their questions and the anchors that an arm picks."""
    if split not in ("train", "test", "val"):
        raise UserError(f"there is no split {split!r}; it is train, test or val")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {str(out)!r}: the sheet is a .png")
    loaded = _load(recipe, overrides)
    chosen = loaded.arm(arm) if arm else next(iter(loaded.arms.values()))
    from eramv_lab.data.inspect import inspect
    from eramv_lab.train.plan import base_of

    folder = base_of(chosen)
    weights = folder / "vision.safetensors" if folder else None
    weights = weights if weights and weights.is_file() else None
    out.parent.mkdir(parents=True, exist_ok=True)
    print(inspect(chosen.plain, out, split=split, count=count, weights=weights))


@app.command()
def ui(
    runs: Runs = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine only.")] = 5000,
) -> None:
    """Serve all runs to a browser on this machine."""
    from eramv_lab.track.ui import serve

    raise typer.Exit(serve(runs, port))


# --- what the verbs share


def _load(recipe: Path, overrides: list[str] | None, arms: list[str] | None = None) -> Recipe:
    from eramv_lab.recipe.resolve import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    for name in arms or ():
        loaded.arm(name)
    return loaded


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
