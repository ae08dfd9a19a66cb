"""Data of one's own to shards: planned from its JSON, packed by a few processes, there at once."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from eramv_lab.data.files import locked, progress
from eramv_lab.data.packing import Job, pack, pack_apart
from eramv_lab.data.planning import (
    SHARES,
    Plan,
    first_of,
    left_out,
    nothing,
    read_plan,
    reasons,
)
from eramv_lab.data.shards import MANIFEST, Manifest, ShardInfo
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.base import sha256_of

HOLD_OUT, VAL_SHARE, SHARD_SIZE = 0.02, 0.01, 1000


def import_llava(
    file: Path,
    images: Path,
    out: Path,
    *,
    test: Path | None = None,
    hold_out: float | None = None,
    val: Path | None = None,
    val_share: float | None = None,
    processes: int | None = None,
    shard_size: int = SHARD_SIZE,
    shown: bool = True,
    console: Console | None = None,
) -> Path:
    """Turn a training JSON in LLaVA's form and its images into a folder of shards, `out`.

    The split `test` is that of the file `test`, or the share `hold_out` (0.02) of all images,
    chosen by a hash of their paths: no image is in both. Likewise `val` is that of its file or
    the share `val_share` (0.01; 0 for none). Samples that cannot be used are left out and named
    in the manifest. Work lies beside `out` until all of it is done; the same call goes on where
    the last one was cut off, and does nothing where all is done. The same input gives the same
    bytes, whatever the number of processes (default: one per CPU, at most eight).

    Returns `out`. Raises UserError for bad input, where nothing can be kept, and where `out` holds
    something else; LabError where writing fails.
    """
    held_out = (("test", test, hold_out, HOLD_OUT), ("val", val, val_share, VAL_SHARE))
    files = {split: one for split, one, _, _ in held_out if one is not None}
    shares = {
        split: default if share is None else share
        for split, one, share, default in held_out
        if one is None or share is not None
    }
    _check(file, images, out, files, shares, shard_size)
    if not shares.get("val"):
        shares.pop("val", None)
    console = console or Console()
    root = os.path.realpath(images)
    plan = read_plan(file, files, root, shares=shares, shard_size=shard_size)
    with locked(out):
        if _stands(out, plan):
            text = f"{out} is this import already: nothing to do"
            console.print(text, soft_wrap=True, markup=False)
            return out
        work = out.parent / f".{out.name}.importing"
        try:
            _begin(work, plan)
            _write(plan, work, root, shard_size, processes, shown)
            manifest = _finish(plan, work, out)
        except OSError as error:
            raise _stopped(work, f"{error.filename or work}: {error.strerror}") from None
    _tell(manifest, out, plan, root, console)
    return out


def _check(
    file: Path,
    images: Path,
    out: Path,
    files: Mapping[str, Path],
    shares: Mapping[str, float],
    shard_size: int,
) -> None:
    missing = [one for one in (file, *files.values()) if not one.is_file()]
    problems = [Problem(message="there is no such file", file=str(one)) for one in missing]
    if not images.is_dir():
        problems.append(Problem(message="there is no such folder of images", file=str(images)))
    if out.exists() and not out.is_dir():
        problems.append(Problem(message="is a file, expected a new folder", file=str(out)))
    for split in sorted(files.keys() & shares.keys()):
        text = f"give --{split} or --{SHARES[split]}, not both: a {split} file is that split"
        problems.append(Problem(message=text.replace("_", "-")))
    wrong = {s: n for s, n in shares.items() if not (0 < n < 1 or (s, n) == ("val", 0))}
    for split, share in wrong.items():
        what = SHARES[split].replace("_", "-")
        problems.append(Problem(message=f"{what} is {share}, expected a share between 0 and 1"))
    if not wrong and (both := sum(shares.values())) >= 1:
        text = f"hold-out and val-share are {both:g} together and leave nothing to train on"
        problems.append(Problem(message=text))
    if shard_size < 1:
        problems.append(Problem(message=f"shard-size is {shard_size}, expected at least 1"))
    if problems:
        raise UserError(problems)


def _stands(out: Path, plan: Plan) -> bool:
    """Whether `out` is this import, done. Raises UserError where it is anything else."""
    if not out.exists() or not any(out.iterdir()):
        return False
    mend = "remove it, or import to another folder"
    if not (out / MANIFEST).exists():
        raise UserError(f"{out} is not empty and no import: {mend}")
    manifest = Manifest.load(out)
    if manifest.config != plan.config:
        keys = sorted(plan.config.keys() | manifest.config.keys())
        differ = [k for k in keys if plan.config.get(k) != manifest.config.get(k)]
        raise UserError(f"{out} holds another import ({', '.join(differ)} differ): {mend}")
    manifest.verify(out, hashes=False)
    return True


# --- doing it


@functools.cache
def _program() -> str:
    """Hash of the sources that decide what goes into a shard."""
    here = Path(__file__).parent
    names = ("planning", "packing", "images", "shards", "formats/llava", "formats/conversation")
    sources = [here / f"{name}.py" for name in names]
    return hashlib.sha256(b"".join(f.read_bytes() for f in sources)).hexdigest()[:16]


def _begin(work: Path, plan: Plan) -> None:
    """The folder of unfinished work, made anew where it is that of another import."""
    told = json.dumps({"config": plan.config, "made_by": _program()})
    file = work / "plan"
    if not file.is_file() or file.read_text() != told:
        shutil.rmtree(work, ignore_errors=True)
        (work / "shards").mkdir(parents=True)
        file.write_text(told)


def _jobs(plan: Plan, work: Path, root: str, size: int) -> Iterator[Job]:
    for split, items in plan.items.items():
        for first in range(0, len(items), size):
            name = f"{split}-{first // size:06d}"
            yield Job(name=name, work=str(work), images=root, items=items[first : first + size])


def _write(
    plan: Plan, work: Path, root: str, size: int, processes: int | None, shown: bool
) -> None:
    """Write the shards that are not there yet."""
    jobs = [job for job in _jobs(plan, work, root, size) if not _whole(job)]
    processes = max(1, min(len(jobs), processes or min(os.cpu_count() or 1, 8)))
    do: Callable[[Job], None] = pack if processes == 1 else pack_apart
    with ThreadPoolExecutor(processes) as pool:
        try:
            for _ in progress(pool.map(do, jobs), len(jobs), "importing shards", shown=shown):
                pass
        except LabError as error:
            raise _stopped(work, str(error)) from None


def _stopped(work: Path, why: str) -> LabError:
    kept = f"what is done lies in {work}; the same command goes on from there"
    return LabError(f"the import stopped: {why}\n    {kept}")


def _whole(job: Job) -> bool:
    try:
        shard = json.loads(job.note.read_text())["shard"]
        return shard is None or sha256_of(job.tar) == shard["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _finish(plan: Plan, work: Path, out: Path) -> Manifest:
    """Put the manifest beside the shards and the folder in its place."""
    wanted = [s for s, items in plan.items.items() if items or s != "val" or s in plan.config]
    splits: dict[str, list[ShardInfo]] = {split: [] for split in wanted}
    items = {item.number: item for items in plan.items.values() for item in items}
    skipped = dict(plan.skipped)
    for note in sorted(work.glob("*.json")):
        told = json.loads(note.read_text())
        if told["shard"] is not None:
            splits[note.name.partition("-")[0]].append(ShardInfo(**told["shard"]))
        for number, reason in told["skipped"]:
            item = items[number]
            skipped[number] = left_out(item.name, item.said.image or "", reason)
    in_order = [skipped[number] for number in sorted(skipped)]
    empty = [split for split, shards in splits.items() if not shards]
    if empty:
        shutil.rmtree(work)
        raise nothing(f"the split {' and '.join(empty)}", in_order)
    manifest = Manifest(config=plan.config, splits=splits, made_by=_program(), skipped=in_order)
    manifest.save(work / "shards")
    (work / "shards").rename(out)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _tell(manifest: Manifest, out: Path, plan: Plan, root: str, console: Console) -> None:
    names = ("samples", "images", "text alone", "turns", "shards")
    table = Table("split", *(Column(name, justify="right") for name in names))
    for split, shards in manifest.splits.items():
        told = manifest.counts(split)
        numbers = told["samples"], told["images"], told["samples"] - told["images"]
        numbers += told["questions"], len(shards)
        table.add_row(split, *(f"{number:,}" for number in numbers))
    console.print(table)
    if manifest.skipped:
        table = Table("left out, because", Column("samples", justify="right"), "the first of them")
        for kind, found in reasons(manifest.skipped).items():
            table.add_row(escape(kind), f"{len(found):,}", escape(first_of(found)))
        console.print(table)
    lines = [
        f"{out}: in a recipe,",
        f"  data: {{type: shards, shards: {{path: {json.dumps(str(out))}}}}}",
    ]
    if manifest.skipped:
        lines.append(f"What was left out, with ids and reasons: {out / MANIFEST}, 'skipped'.")
    if shared := plan.shared(root):
        lines.append(f"{shared:,} images are in more than one split: the files say so.")
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
