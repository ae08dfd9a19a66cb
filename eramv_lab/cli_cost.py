"""The verb `cost`: what recipes cost, at their own sizes or at a published model's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eramv_lab.cli_args import ArmNames, AsJson, print_unreached
from eramv_lab.errors import InfeasibleError, Problem, UserError, nearest
from eramv_lab.recipe import complete

if TYPE_CHECKING:
    from eramv_lab.recipe.resolve import Recipe


def cost(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE]...",
            help="YAML files, and keys to change in all of them.",
            autocompletion=complete.recipes_and_overrides,
        ),
    ],
    arm: ArmNames = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Price at the tower and language model of this recipe: a file, or its name in "
            "experiments/scale (llava15_7b, llava15_13b, 100m); repeatable.",
            autocompletion=complete.shapes,
        ),
    ] = None,
    text_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Price for so many rows that are not visual; matches are still solved at the "
            "recipe's (or the shape's) own cost.text_tokens.",
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="The least time of a prefill at batch 1, 8 and 32 on a100, h100, h200, l4 or "
            "rtx4090; repeatable."
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="The prefill as a paper counts it: fastv, pyramiddrop, sparsevlm, shortv; or "
            "whole, which is ours."
        ),
    ] = None,
    count: Annotated[bool, typer.Option(help="Count on the meta device too; must agree.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A page in Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Price every arm of recipes by the closed form, without weights or data."""
    named = [word for word in words if "=" not in word or Path(word).is_file()]
    overrides = [word for word in words if word not in named]
    files = list({os.path.abspath(word): word for word in named}.values())  # each once
    if not files:
        raise UserError("no recipe to price: name a YAML file")
    from eramv_lab.cost.conventions import NAMED
    from eramv_lab.cost.listing import price_list
    from eramv_lab.cost.page import page, print_list
    from eramv_lab.cost.roofline import GPUS
    from eramv_lab.cost.show import print_costs, verify

    known(gpu or (), GPUS, "GPU")
    known([convention] if convention else (), NAMED, "convention")
    shapes = shape or [None]
    lists = [
        price_list(
            load_all(files, overrides, arm or (), one),
            arm or (),
            shape=one,
            text_tokens=text_tokens,
            gpus=gpu or (),
            convention=convention,
        )
        for one in shapes
    ]
    for row in (row for prices in lists for row in prices) if count else ():
        said = f"{row.name}: counted {verify(row.arm)} FLOPs, as the closed form says"
        print(said, file=sys.stderr)
    if as_json:
        import json

        flat = [prices.to_json() for prices in lists]
        by_shape = {"shapes": dict(zip(shapes, flat, strict=True))}
        print(json.dumps(flat[0] if len(flat) == 1 else by_shape, indent=1))
    elif markdown:
        print(page(lists, sys.argv[1:]), end="")
    elif len(files) == 1 and not (shape or gpu or convention):
        print_costs({row.arm.name: row.cost for row in lists[0]})
    else:
        for prices in lists:
            print_list(prices)
    if not (as_json or markdown):
        for recipe in lists[0].recipes.values():
            print_unreached(recipe, arm)


def known(names: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise UserError where a name is not one of those there are."""
    there = tuple(allowed)
    problems = [
        Problem(message=f"there is no {what} {name!r}", allowed=there, nearest=nearest(name, there))
        for name in names
        if name not in there
    ]
    if problems:
        raise UserError(problems)


def load_all(
    files: Sequence[str], overrides: Sequence[str], arms: Sequence[str], shape: str | None
) -> list[Recipe]:
    """The checked recipes, which have these arms, at a shape.

    Raises UserError with the problems of all files, InfeasibleError where nothing else is wrong.
    """
    from eramv_lab.recipe.resolve import load_recipe

    recipes: list[Recipe] = []
    problems: list[Problem] = []
    unsolved: list[str] = []
    for file in files:
        try:
            recipe = load_recipe(file, overrides, shape=shape)
            for name in arms:
                recipe.arm(name)
            recipes.append(recipe)
        except UserError as error:
            problems += error.problems
        except InfeasibleError as error:
            unsolved.append(str(error))
    if problems:
        raise UserError(dict.fromkeys(problems))
    if unsolved:
        raise InfeasibleError("\n".join(unsolved))
    return recipes
