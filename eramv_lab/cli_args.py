"""What the verbs of the command line share: their arguments, and the recipe that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eramv_lab.recipe import complete

if TYPE_CHECKING:
    from eramv_lab.recipe.resolve import Recipe

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


def load(recipe: Path, overrides: list[str] | None, arms: list[str] | None = None) -> Recipe:
    """The checked recipe, which has these arms. Raises UserError."""
    from eramv_lab.recipe.resolve import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    for name in arms or ():
        loaded.arm(name)
    return loaded


def print_unreached(recipe: Recipe, arms: list[str] | None = None) -> None:
    """Say which arms of a league there are not, and why; nothing where `arms` were asked for."""
    for name, reason in recipe.league.unreached.items() if recipe.league and not arms else ():
        print(f"{name}: not reached: {reason}")
