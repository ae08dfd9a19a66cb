"""The `league:` section: which systems meet at which budgets, and what its arms are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eramv_lab.recipe.system import System

ALL = "all"
"""Every system of the folder."""


@dataclass(frozen=True, kw_only=True)
class LeagueConfig:
    """Which systems meet, and at which shares of the full model's compute."""

    systems: tuple[str, ...] | str = ALL
    """Recipes of systems, names or paths beside this file; all: those of `systems/`."""
    full: str
    """The system that reads every token: what budgets are shares of, what training-free systems
    are applied to, and what all are compared with."""
    budgets: tuple[float, ...]
    """Shares of the full system's whole prefill, in whole percents: arms are named by them."""
    null: tuple[str, ...] = ()
    """Systems that are null lines; the first one is what all are compared with at a budget."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One arm of a league."""

    system: str
    """Name of its file."""
    told: System
    budget: float | None
    """None where the system has one price."""


@dataclass(frozen=True, kw_only=True)
class League:
    """The arms of a league by name, and what they are measured against."""

    full: str
    """Name of the arm that reads every token."""
    budgets: tuple[float, ...]
    null: tuple[str, ...]
    """Names of the systems that are null lines."""
    arms: dict[str, Entry] = field(default_factory=dict[str, Entry])
    unreached: dict[str, str] = field(default_factory=dict[str, str])
    """Arms whose system cannot reach the budget, with the reason."""

    def to_plain(self) -> dict[str, Any]:
        """What a report needs to know of it."""
        told = {
            name: {
                "system": entry.system,
                "name": entry.told.name,
                "budget": entry.budget,
                "acts": entry.told.acts,
                "trains": entry.told.trains,
                "source": entry.told.source,
            }
            for name, entry in self.arms.items()
        }
        head = {"full": self.full, "budgets": list(self.budgets), "null": list(self.null)}
        return {**head, "arms": told, "unreached": dict(self.unreached)}
