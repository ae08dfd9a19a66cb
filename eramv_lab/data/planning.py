"""What an import will do: samples by split, those left out already, and the identity of it all."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eramv_lab.data.formats import llava
from eramv_lab.data.formats.conversation import Conversation, Unusable
from eramv_lab.data.packing import Item, read_image
from eramv_lab.errors import UserError

SPLITS = ("train", "test", "val")
HELD_OUT = SPLITS[1:]
SHARES = {"test": "hold_out", "val": "val_share"}
"""What the share of a held-out split is called."""
Skipped = dict[str, str]
"""`id`, `file` and `reason` of a sample that was left out."""


@dataclass
class Plan:
    """An import, read and split, its images not looked at yet."""

    config: dict[str, Any]
    """What its result follows from: names and hashes of what is read, and the options."""
    items: dict[str, list[Item]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    """By split."""
    skipped: dict[int, Skipped] = field(default_factory=dict[int, Skipped])
    """By number."""
    said: dict[int, Conversation] = field(default_factory=dict[int, Conversation])
    """Those that may be used, by number."""
    names: dict[int, str] = field(default_factory=dict[int, str])
    """What each is called; unique."""

    def shared(self, root: str) -> int:
        """Images that are in more than one split: none, unless the files say so."""
        names = ({i.said.image for i in items} - {None} for items in self.items.values())
        splits = ({_same(root, name) for name in split if name} for split in names)
        return sum(count > 1 for count in Counter(itertools.chain(*splits)).values())


def read_plan(
    file: Path,
    files: Mapping[str, Path],
    root: str,
    *,
    shares: Mapping[str, float],
    shard_size: int,
) -> Plan:
    """The plan of an import of LLaVA's JSON. Raises UserError where nothing in it can be used.

    `root`: the real path of the image folder. `files`, `shares`: by held-out split, its own file
    or the share of all images that it takes of `file`.
    """
    config: dict[str, Any] = {"format": "llava", "shard_size": shard_size}
    plan, chosen = Plan(config), dict[int, str]()
    for place, one in {"file": file, **files}.items():
        content = one.read_bytes()
        config[place] = {"name": one.name, "sha256": hashlib.sha256(content).hexdigest()}
        first, entries = len(plan.names), llava.read_list(one, content)
        _parse(entries, first, plan)
        if place in files:
            chosen |= dict.fromkeys(range(first, first + len(entries)), place)
    if not plan.said:
        raise nothing(file, plan.skipped.values())
    config["images"] = _sizes(plan.said.values(), root)
    config |= {SHARES[split]: share for split, share in shares.items()}
    chosen |= _held_out(plan, chosen, shares, root)
    for number, said in plan.said.items():
        split = chosen.get(number, "train")
        key = f"{split}-{len(plan.items[split]):06d}"
        plan.items[split].append(Item(number=number, key=key, name=plan.names[number], said=said))
    return plan


def _parse(entries: Sequence[Any], first: int, plan: Plan) -> None:
    taken = set(plan.names.values())
    again = Counter[str]()
    for number, plain in enumerate(entries, first):
        name = base = llava.id_of(plain) or f"#{number - first + 1}"
        while name in taken:  # files repeat ids
            again[base] += 1
            name = f"{base}~{again[base] + 1}"
        taken.add(name)
        plan.names[number] = name
        try:
            plan.said[number] = llava.parse(plain)
        except Unusable as error:
            plan.skipped[number] = left_out(name, llava.file_of(plain), str(error))


def left_out(name: str, file: str, reason: str) -> Skipped:
    """A sample that was left out."""
    return {"id": name, "file": file, "reason": reason}


def _sizes(all_said: Iterable[Conversation], root: str) -> str:
    """Hash of the names and sizes of all image files: another picture is other data."""
    digest = hashlib.sha256()
    for name in {said.image: None for said in all_said if said.image is not None}:
        try:
            size = os.stat(os.path.join(root, name)).st_size
        except (OSError, ValueError):
            size = -1
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()


def _held_out(
    plan: Plan, taken: Mapping[int, str], shares: Mapping[str, float], root: str
) -> dict[int, str]:
    """The split of each sample that is held out: all those of the images whose hash is small.

    The splits follow one another in the order of the hashes, so that `test` is the same whatever
    `val` takes. Each takes so many more that one sample at least can be used, with an image if
    there are any; `val` is empty where it cannot. No image that a file of its own has `taken` is
    held out.
    """
    groups: dict[str, list[int]] = {}
    for number, said in plan.said.items():
        group = f"text {plan.names[number]}"
        if said.image is not None:
            group = f"image {_same(root, said.image)}"
        groups.setdefault(group, []).append(number)
    groups = {g: numbers for g, numbers in groups.items() if taken.keys().isdisjoint(numbers)}
    marks = {group: hashlib.sha256(group.encode()).digest()[:8] for group in groups}
    order = sorted(groups, key=marks.__getitem__)
    chosen: dict[int, str] = {}
    first, share = 0, 0.0
    for split in filter(shares.__contains__, HELD_OUT):
        share += shares[split]
        limit = int(share * 2**64).to_bytes(8)
        last = sum(mark < limit for mark in marks.values())
        end = len(order) - (split == "val")  # `val` leaves something to train on
        pictured = any(group.startswith("image ") for group in order[first:end])
        usable = (
            place
            for place, group in enumerate(order[first:end], first)
            if (not pictured or group.startswith("image "))
            and _usable(plan, groups[group][0], root)
        )
        one = next(usable, None if split == "val" else first)
        last = first if one is None else min(max(last, one + 1), end)
        chosen |= {n: split for group in order[first:last] for n in groups[group]}
        first = last
    return chosen


def _same(root: str, image: str) -> str:
    """One name for all the paths that lead to an image, by links and otherwise."""
    try:
        return os.path.relpath(os.path.realpath(os.path.join(root, image)), root)
    except ValueError:  # a name that no file can have
        return image


def _usable(plan: Plan, number: int, root: str) -> bool:
    image = plan.said[number].image
    try:
        _ = image is None or read_image(root, image)
    except Unusable:
        return False
    return True


def reasons(skipped: Iterable[Skipped]) -> dict[str, list[Skipped]]:
    """What was left out, by kind of reason, the most frequent first."""
    kinds: dict[str, list[Skipped]] = {}
    for one in skipped:
        kinds.setdefault(one["reason"].partition(":")[0], []).append(one)
    return dict(sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0])))


def nothing(what: Path | str, skipped: Iterable[Skipped]) -> UserError:
    """The error of an import that would be empty."""
    lines = [
        f"\n    {len(found):,} left out: {kind} ({first_of(found)})"
        for kind, found in reasons(skipped).items()
    ]
    return UserError(f"nothing to keep in {what}, so nothing was written" + "".join(lines))


def first_of(found: Sequence[Skipped], most: int = 3) -> str:
    """The first few of what was left out, by file or else by id."""
    names = [one["file"] or one["id"] for one in found[:most]]
    return ", ".join(names) + (", ..." if len(found) > most else "")
