"""The price of a recipe's arms as `cost` and `check` show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from eramv_lab.cost.formula import Cost, price
from eramv_lab.errors import LabError

if TYPE_CHECKING:
    from eramv_lab.recipe.arms import Arm

PARTS = ("vision", "connector", "bridge", "llm", "head")


def price_arm(arm: Arm) -> Cost:
    """The cost of an arm for the input and the roles that its recipe names."""
    return price(
        arm.spec,
        text_tokens=arm.cost.text_tokens,
        batch=arm.cost.batch,
        train=dataclasses.asdict(arm.train.roles),
    )


def facts(arm: Arm) -> str:
    """An arm's size and price on one line."""
    cost = price_arm(arm)
    band = ", ".join(map(str, arm.spec.band)) or "none"
    return (
        f"{cost.visual_tokens} visual tokens, {cost.fine_tokens} fine, band {band}, "
        f"{cost.prefill / 1e12:.4g} prefill TFLOPs, {cost.parameters:,} parameters"
    )


def verify(arm: Arm) -> int:
    """FLOPs of the prefill counted on the meta device. Raises LabError unless the closed form,
    column by column and in parameters, says the same."""
    from eramv_lab.cost.count import count_parameters, count_prefill, meta_model

    model, cost = meta_model(arm.spec), price_arm(arm)
    counted = count_prefill(model, arm.cost.text_tokens)
    formula = {column: cost.column(column) for column in counted}
    if counted != formula:
        raise LabError(f"{arm.name}: the count is {counted}, the closed form {formula}")
    if (parameters := count_parameters(model)) != cost.parameters:
        raise LabError(f"{arm.name}: {parameters} parameters, the closed form {cost.parameters}")
    return sum(counted.values())


def print_costs(costs: Mapping[str, Cost]) -> None:
    """A table with a row for each arm."""
    from rich.console import Console
    from rich.table import Table

    most = max(cost.prefill for cost in costs.values())
    unit, name = (1e12, "TFLOPs") if most >= 1e11 else (1e9, "GFLOPs")
    table = Table("arm", box=None, header_style="bold")
    for column in (*PARTS, "prefill", "parameters", "KV MiB", "tokens", "fine"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, cost in costs.items():
        flops = [*(cost.column(part) for part in PARTS), cost.prefill]
        table.add_row(
            arm,
            *(f"{n / unit:.4g}" for n in flops),
            f"{cost.parameters:,}",
            f"{cost.kv_bytes / 2**20:.4g}",
            str(cost.visual_tokens),
            str(cost.fine_tokens),
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    text = ", ".join(str(n) for n in sorted({cost.text_tokens for cost in costs.values()}))
    print(f"{name} of a prefill (1 MAC = 2 FLOPs) of one image and {text} text tokens")
