"""A search replayed on a table of every setting: how good is a sampler, without any training?

python tests/sweep/replay.py        every sampler on the stored grid
"""

import csv
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from eramv_lab.sweep.config import Named
from eramv_lab.sweep.load import Sweep, load_sweep
from eramv_lab.sweep.propose import propose
from eramv_lab.sweep.samplers import make_sampler

ROOT = Path(__file__).resolve().parents[2]
RECIPE, TABLE = ROOT / "sweeps" / "band_grid.yaml", Path(__file__).with_name("band_grid.csv")
SAMPLERS = ("auto", "tpe", "random", "drawn")

Place = tuple[int, int, int]
"""Start of the band (0 where there is none), its length, anchors."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a sampler found: for every seed the values in the order of its trials."""

    sampler: str
    found: list[list[float]]
    best: float
    """The best value of the table."""
    settings: int
    """Those of the table."""

    @property
    def reached(self) -> float:
        """The best found, as a share of the best there is: median of the seeds."""
        return statistics.median(max(values) / self.best for values in self.found)

    def needed(self, share: float) -> float:
        """Trials until a share of the best was reached, all of them where it was not: median."""
        wanted = share * self.best
        firsts = (
            next((i for i, value in enumerate(values, 1) if value >= wanted), self.settings)
            for values in self.found
        )
        return statistics.median(firsts)

    def __str__(self) -> str:
        """One line for a reader."""
        least = min(max(values) for values in self.found) / self.best
        return (
            f"{self.sampler}: {self.reached:.1%} of the best in {len(self.found[0])} of "
            f"{self.settings} trials (median of {len(self.found)} seeds, the worst {least:.1%}); "
            f"98 % after {self.needed(0.98):g} trials, the best after {self.needed(1.0):g}"
        )


def read_table(path: Path = TABLE, goal: str = "accuracy") -> dict[Place, float]:
    """The goal of every setting of a grid's trials.csv."""
    with path.open(newline="") as file:
        return {_place(row): float(row[goal]) for row in csv.DictReader(file)}


def _place(row: Mapping[str, str]) -> Place:
    start, length, anchors = (
        int(float(row[name] or 0)) for name in ("band_start", "band_length", "anchors")
    )
    return start if length else 0, length, anchors


def replay(sampler: str, sweep: Sweep, table: Mapping[Place, float], seeds: int) -> Replay:
    """Search a third of a table `seeds` times, as one worker would; `drawn` draws settings from
    the table itself, each as likely as another, and knows no space."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = len(table) // 3
    if sampler == "drawn":
        found = [random.Random(s).sample(list(table.values()), trials) for s in range(seeds)]
    else:
        found = [_search(sampler, sweep, table, trials, seed) for seed in range(seeds)]
    return Replay(sampler=sampler, found=found, best=max(table.values()), settings=len(table))


def place_of(values: Mapping[str, Any]) -> Place:
    """The row of a setting."""
    length = values["model.band.length"]
    start = values["model.band.start"] if length else 0
    return start, length, values["model.anchors.count"]


def _search(
    sampler: str, sweep: Sweep, table: Mapping[Place, float], trials: int, seed: int
) -> list[float]:
    learnt, tried, found = [], set[str](), []
    for number in range(trials):
        told = seed * 100_003 + number
        made = make_sampler(Named(type=sampler), trials, told)
        values = propose(learnt, tried, sweep.space, sweep.goals, made, told)
        assert values is not None and sweep.space.holds(values)
        tried.add(sweep.space.identity(values))
        found.append(table[place_of(values)])
        learnt.append((values, [found[-1]]))
    return found


def main() -> None:
    """Print a line for each sampler."""
    sweep, table = load_sweep(RECIPE), read_table()
    print(f"{len(table)} settings, the best {max(table.values()):.3f}")
    for sampler in SAMPLERS:
        print(replay(sampler, sweep, table, seeds=15), flush=True)


if __name__ == "__main__":
    main()
