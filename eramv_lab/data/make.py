"""The made world on disk: drawn once per config by a few processes, found again ever after."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eramv_lab.data import world as world_package
from eramv_lab.data.files import locked, progress
from eramv_lab.data.images import png
from eramv_lab.data.shards import Asked, Manifest, Packed, ShardInfo, write_shard
from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.questions import ask
from eramv_lab.data.world.scene import make_scene, rng_of
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.files import made_beside
from eramv_lab.recipe.parse import plain

SCENES_PER_SHARD = 400
Job = tuple[str, int, int]
"""Split, first scene, one past the last scene of a shard."""

log = logging.getLogger(__name__)


def make_data(
    world: WorldConfig,
    root: Path | str = "data",
    *,
    processes: int | None = None,
    shown: bool = True,
) -> Path:
    """The folder of this world's shards; drawn first where it is missing, old or damaged.

    What is there is checked byte by byte. Two calls at the same time draw once. `processes`:
    default one per CPU, at most eight; `shown`: a progress bar where there is a terminal.
    Raises UserError when the world's values make no sense.
    """
    if problems := [Problem(message=text, key="data.world") for text in world.check()]:
        raise UserError(problems)
    folder = folder_of(world, root)
    if _stands(folder, world):
        return folder
    with locked(folder):
        if not _stands(folder, world):
            with made_beside(folder) as fresh:
                _draw(world, fresh, processes, shown)
    return folder


def folder_of(world: WorldConfig, root: Path | str = "data") -> Path:
    """Where the shards of this world lie: `<root>/world/<first digits of the config's hash>`."""
    # keys keep their order: that of `mix` decides which questions are drawn
    text = json.dumps(_plain(world))
    return Path(root) / "world" / hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(world: WorldConfig) -> dict[str, Any]:
    return plain(world, known=True)


@functools.cache
def _program() -> str:
    """Hash of the sources that draw scenes and write them."""
    sources = sorted(Path(path) for path in world_package.__path__)[0].glob("*.py")
    files = [*sorted(sources), *(Path(__file__).with_name(f"{n}.py") for n in ("images", "shards"))]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def _stands(folder: Path, world: WorldConfig) -> bool:
    if not folder.exists():
        return False
    try:
        manifest = Manifest.load(folder)
        manifest.verify(folder)
    except UserError as error:
        log.warning("damaged data, drawn again: %s", error)
        return False
    return manifest.config == _plain(world) and manifest.made_by == _program()


def _draw(world: WorldConfig, folder: Path, processes: int | None, shown: bool) -> None:
    jobs = [
        (split, first, min(first + SCENES_PER_SHARD, getattr(world, split)))
        for split in world.splits()
        for first in range(0, getattr(world, split), SCENES_PER_SHARD)
    ]
    processes = min(len(jobs), processes or min(os.cpu_count() or 1, 8))
    draw = functools.partial(_draw_shard if processes == 1 else _draw_apart, world, folder)
    with ThreadPoolExecutor(processes) as pool:
        drawn = pool.map(draw, jobs)
        shards = list(progress(drawn, len(jobs), "drawing the world", shown=shown))
    splits: dict[str, list[ShardInfo]] = {split: [] for split in world.splits()}
    for (split, _, _), shard in zip(jobs, shards, strict=True):
        splits[split].append(shard)
    Manifest(config=_plain(world), splits=splits, made_by=_program()).save(folder)


def _draw_apart(world: WorldConfig, folder: Path, job: Job) -> ShardInfo:
    """As `_draw_shard`, by a program of its own.

    Not by `multiprocessing`: a spawned process would run the caller's script again, and a forked
    one would carry the threads of torch along.
    """
    told = json.dumps([_plain(world), str(folder.resolve()), job])
    done = subprocess.run(
        [sys.executable, "-m", "eramv_lab.data.make", told],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"drawing the world failed:\n{done.stderr.strip()}")
    return ShardInfo(**json.loads(done.stdout))


def _main() -> None:
    config, folder, job = json.loads(sys.argv[1])
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    print(json.dumps(asdict(_draw_shard(WorldConfig(**values), Path(folder), job))))


def _draw_shard(world: WorldConfig, folder: Path, job: Job) -> ShardInfo:
    split, first, last = job
    samples = (_sample(world, split, index) for index in range(first, last))
    return write_shard(folder / f"{split}-{first // SCENES_PER_SHARD:06d}.tar", samples)


def _sample(world: WorldConfig, split: str, index: int) -> Packed:
    scene = make_scene(world, split, index)
    key = f"{split}-{index:06d}"
    # what `questions_of` gives, without drawing the scene a second time
    questions = ask(scene, world, rng_of(world, split, index, use=1), world.questions)
    asked = [
        Asked(f"{key}-{number}", q.text, q.answer, q.type, references=q.references)
        for number, q in enumerate(questions)
    ]
    objects = [asdict(thing) for thing in scene.objects]
    return Packed(key, asked, ("png", png(scene.image)), objects)


if __name__ == "__main__":
    _main()
