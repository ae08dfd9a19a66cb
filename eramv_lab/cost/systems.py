"""The systems of a folder at a glance: where each acts, what it trains, its tokens, its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eramv_lab.cost.flow import rows_by_layer
from eramv_lab.cost.formula import Cost
from eramv_lab.cost.show import price_arm
from eramv_lab.errors import InfeasibleError, Problem, UserError
from eramv_lab.recipe.describe import system_files
from eramv_lab.recipe.load import read_recipe
from eramv_lab.recipe.nodes import to_data
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.recipe.system import System, parse_system

FULL = "llava"
"""The system whose prefill the others' are shares of."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One system: what it says of itself, and its price on the bed."""

    file: Path
    system: System
    cost: Cost | None
    """None where a match that its recipe asks for is out of reach."""
    mean_visual: float = 0.0
    """Visual rows of a layer, mean over the layers."""
    unreached: str | None = None
    """What is out of reach."""
    share: float | None = None
    """Of the prefill of the full system; None where the folder has none."""

    def to_json(self) -> dict[str, Any]:
        """What it says, and flat numbers, or why it has none."""
        told = {"recipe": self.file.as_posix(), "system": self.system.to_plain()}
        if self.cost is None:
            return {**told, "not_reached": self.unreached}
        numbers = {"visual_tokens_mean": self.mean_visual, "prefill_share": self.share}
        return {**told, **self.cost.to_json(), **numbers}


def listed(files: Sequence[Path]) -> tuple[list[Listed], list[Problem]]:
    """The systems of recipe files, priced for the input that each names, and what is wrong."""
    found: list[Listed] = []
    problems: list[Problem] = []
    for file in files:
        try:
            recipe = load_recipe(file)
        except UserError as error:
            problems += error.problems
            continue
        except InfeasibleError as error:  # nothing is wrong with the words
            section = to_data(read_recipe(file).shared).get("system")
            if (system := parse_system(section, problems)) is not None:
                found.append(Listed(file=file, system=system, cost=None, unreached=str(error)))
            continue
        if recipe.system is None:
            problems.append(Problem(message="no system: section", file=file.as_posix()))
            continue
        arm = next(iter(recipe.arms.values()))
        text = arm.cost.text_tokens
        rows = rows_by_layer(arm.spec, text)
        mean = sum(rows) / len(rows) - text
        one = Listed(file=file, system=recipe.system, cost=price_arm(arm), mean_visual=mean)
        found.append(one)
    full = next((one.cost.prefill for one in found if one.cost and one.file.stem == FULL), None)
    if full is None:
        return found, problems
    shares = [one.cost and one.cost.prefill / full for one in found]
    return [replace(one, share=share) for one, share in zip(found, shares, strict=True)], problems


def print_systems(as_json: bool = False) -> None:
    """The table of experiments/systems. Raises UserError where there is none, and, behind the sound
    ones, with everything that is wrong with the others.
    """
    found, problems = listed(system_files())
    if as_json:
        import json

        print(json.dumps({one.file.stem: one.to_json() for one in found}, indent=1))
    else:
        _print_table(found)
    if problems:
        raise UserError(problems)


def _print_table(systems: Sequence[Listed]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("recipe", "system", "acts", "trains"):
        table.add_column(head, no_wrap=head in ("recipe", "system"), overflow="fold")
    for head in ("tokens", "fine", "prefill"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True, max_width=34)
    for one in sorted(systems, key=lambda one: -(one.share or 0.0)):
        table.add_row(
            one.file.stem,
            one.system.name,
            one.system.acts,
            one.system.trains,
            _tokens(one),
            str((one.cost and one.cost.fine_tokens) or ""),
            "" if one.share is None else f"{one.share:.1%}",
            one.system.source,
        )
    console = Console(highlight=False)
    console.width = max(console.width, 140)
    console.print(table)
    text = ", ".join(str(n) for n in sorted({one.cost.text_tokens for one in systems if one.cost}))
    print(
        f"tokens: visual rows of the sequence (mean over the layers where some leave); prefill: of "
        f"{FULL}'s FLOPs, one image and {text} text tokens"
    )
    for one in systems:
        if one.unreached is not None:
            print(f"{one.file.stem}: not reached: {one.unreached}")


def _tokens(one: Listed) -> str:
    if one.cost is None:
        return "not reached"
    first = one.cost.visual_tokens
    return f"{first}" if abs(one.mean_visual - first) < 0.5 else f"{first} ({one.mean_visual:.0f})"
