"""What `analyse` prints: a line for each layer, and what a recipe would write."""

from __future__ import annotations

from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eramv_lab.analyse.fitted import SPLIT, Layers


def to_plain(found: Layers) -> dict[str, Any]:
    """Plain data, for programs; divergences in nats, `order` from 0, least contribution first."""
    return {
        "run": str(found.run.folder),
        "arm": found.run.arm,
        "seed": found.run.seed,
        "split": SPLIT,
        "images": found.images,
        "prompts": found.prompts,
        "layers": [
            {
                "layer": layer,
                "contribution": kl,
                "order": found.order.index(layer),
                "withdrawn": found.withdrawal.divergences.get(layer),
            }
            for layer, kl in found.contributions.items()
        ],
        "vtw": {"tolerance": found.tolerance, "model.reducer": found.vtw},
        "shortv": {"frozen": list(found.frozen), "model.reducer": found.shortv},
    }


def print_layers(found: Layers) -> None:
    """A table, and below it the two reducers as lines of a recipe."""
    table = Table(box=None, header_style="bold")
    for head in ("layer", "KL frozen", "order", "KL withdrawn from here"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in to_plain(found)["layers"]:
        kl, gone = _number(row["contribution"]), _number(row["withdrawn"])
        table.add_row(str(row["layer"]), kl, str(row["order"]), gone)
    console = Console(highlight=False)
    console.width = max(console.width, 60)
    print(
        f"{found.run.arm}, seed {found.run.seed}: the next word after {found.prompts} prompts "
        f"about {found.images} images of {SPLIT!r}, KL in nats"
    )
    console.print(table)
    print("\n".join(recipe_lines(found)))


def recipe_lines(found: Layers) -> list[str]:
    """VTW's layer and ShortV's layers as a recipe writes them, a comment above each."""
    within = f"within {found.tolerance:g}"
    if found.vtw is None:
        nearest, kl = min(found.withdrawal.divergences.items(), key=lambda one: one[1])
        lines = [f"# VTW: no layer is {within}; the least is {kl:.3g}, before layer {nearest}"]
    else:
        lines = [f"# VTW: the first layer {within}", _line(found.vtw)]
    frozen = ", ".join(map(str, found.frozen)) or "none"
    told = f"# ShortV: freezes {frozen}; active is the published share, yours to change"
    return [*lines, told, _line(found.shortv)]


def _line(reducer: dict[str, Any]) -> str:
    flow = yaml.safe_dump(reducer, default_flow_style=True, sort_keys=False, width=float("inf"))
    return f"model.reducer: {flow.strip()}"


def _number(kl: float | None) -> str:
    return "–" if kl is None else f"{abs(kl):.5f}"
