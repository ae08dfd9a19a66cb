"""Where results come from, as notes for their reader: commits, versions, samples left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eramv_lab.report.runs import Arm, Run

PACKAGES = ("eramv_lab", "torch")
"""Those of which another version may mean another result."""
NAMED = 20
"""Samples that a note names at most."""
ARMS = 6
"""Arms that it names at most."""
LEFT_OUT = {
    "skipped": "{} left out at import",
    "broken": "{} found broken while reading",
}
"""What `data` of a result lists, in words."""


def origin_notes(arms: Sequence[Arm]) -> list[str]:
    """A line for each thing in which the runs of `arms` differ, and for each list of samples that
    some of them went without; what several runs share is told once.
    """
    notes = [_unlike(arms, "commits", lambda run: _text(run, "git", "commit")[:10])]
    for name in PACKAGES:
        notes.append(
            _unlike(arms, f"versions of {name}", lambda run, n=name: _text(run, "versions", n))
        )
    for kind, words in LEFT_OUT.items():
        lists = _grouped(arms, lambda run, k=kind: _samples(run, k))
        for (source, samples), runs in lists.items():
            if samples:
                whose = f" ({_whose(arms, runs)})" if len(lists) > 1 else ""
                count = f"{len(samples)} sample" + "s" * (len(samples) > 1)
                notes.append(f"{source}: {words.format(count)}{whose}: {_listed(samples)}")
    return [note for note in notes if note]


def _unlike(arms: Sequence[Arm], what: str, value_of: Callable[[Run], str]) -> str:
    """The note that runs differ in `what`, empty where they do not."""
    found = _grouped(arms, value_of)
    if len(found) < 2:
        return ""
    told = [f"{value or 'unknown'} ({_whose(arms, runs)})" for value, runs in found.items()]
    return f"Results of different {what}: {'; '.join(told)}"


def _grouped(arms: Sequence[Arm], value_of: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    """The runs by what `value_of` says of them, in the order met."""
    found: dict[Any, list[Run]] = {}
    for arm in arms:
        for run in arm.runs:
            found.setdefault(value_of(run), []).append(run)
    return found


def _whose(arms: Sequence[Arm], runs: Sequence[Run]) -> str:
    """The runs by arm; seeds are named where they are not all of the arm's."""
    folders = {run.folder for run in runs}
    parts: list[str] = []
    for arm in arms:
        seeds = [run.seed for run in arm.runs if run.folder in folders]
        if seeds and len(seeds) < len(arm.runs):
            word = "seeds" if len(seeds) > 1 else "seed"
            parts.append(f"{arm.name} {word} {', '.join(map(str, seeds))}")
        elif seeds:
            parts.append(arm.name)
    if len(parts) > ARMS:
        parts[ARMS - 1 :] = [f"and {len(parts) - ARMS + 1} arms more"]
    return ", ".join(parts)


def _text(run: Run, section: str, key: str) -> str:
    return str((run.result.get(section) or {}).get(key) or "")


def _samples(run: Run, kind: str) -> tuple[str, tuple[str, ...]]:
    """Name of the run's data, and the samples of one list: `file (reason)`, each once.

    They are sorted: seeds meet the same broken samples in another order.
    """
    listed = (run.result.get("data") or {}).get(kind) or []
    return _source(run.recipe), tuple(sorted({_named(sample) for sample in listed}))


def _named(sample: Mapping[str, Any]) -> str:
    name = next((sample[key] for key in ("file", "id", "key") if sample.get(key)), "a sample")
    reason = sample.get("reason")
    text = f"{name} ({reason})" if reason else str(name)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _source(recipe: Mapping[str, Any]) -> str:
    """The data's name: the last part of its folder, or its type."""
    data = recipe.get("data")
    data = data if isinstance(data, Mapping) else {}
    kind = str(data.get("type") or "data")
    settings = data.get(kind)
    path = settings.get("path") if isinstance(settings, Mapping) else None
    return Path(str(path)).name if path else kind


def _listed(samples: Sequence[str]) -> str:
    more = len(samples) - NAMED
    return ", ".join(samples[:NAMED]) + (f", and {more} more: see result.json" if more > 0 else "")
