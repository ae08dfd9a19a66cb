"""The verbs of `data`: make it, import it, look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eramv_lab.cli_args import Overrides, RecipePath, load
from eramv_lab.errors import UserError
from eramv_lab.recipe import complete

data_app = typer.Typer(help="Make the data of a recipe, or look at it.", no_args_is_help=True)

DEFAULT_RECIPE = Path("experiments/base.yaml")


@data_app.command("make")
def data_make(recipe: RecipePath = DEFAULT_RECIPE, overrides: Overrides = None) -> None:
    """Make the shards of a recipe's data, where they are missing."""
    loaded = load(recipe, overrides)
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
    loaded = load(recipe, overrides)
    chosen = loaded.arm(arm) if arm else next(iter(loaded.arms.values()))
    from eramv_lab.data.inspect import inspect
    from eramv_lab.train.plan import base_of

    folder = base_of(chosen)
    weights = folder / "vision.safetensors" if folder else None
    weights = weights if weights and weights.is_file() else None
    out.parent.mkdir(parents=True, exist_ok=True)
    start = {"model": chosen.origin.folder} if chosen.origin else None
    print(inspect(chosen.plain, out, split=split, count=count, weights=weights, start=start))
