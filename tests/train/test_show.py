"""What a terminal shows of a study: a bar over all fits, a line per job, the time left."""

import io
import json
import time
from multiprocessing import Process
from pathlib import Path

from rich.console import Console

from eramv_lab.train.pool import Job, Running
from eramv_lab.train.show import Show, time_left


def test_draw(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(
        json.dumps({"phase": "train", "step": 50, "steps": 200, "loss": 1.25, "done": 0.2})
    )
    job = Job(key="a-s0-0", target="m:f", folder=tmp_path)
    running = Running(job=job, processes=[Process()], slot=0, began=time.monotonic() - 65)
    console = Console(file=io.StringIO(), width=120)
    show = Show({"a-s0-0": "a s0", "b-s0-0": "b s0"}, 3, console)
    show.fits_began = time.monotonic() - 20
    console.print(show.draw([running]))
    head, line = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "0/2, 3 done before" in head and "3:00 left" in head
    assert "a s0" in line and "step 50/200  loss 1.250" in line and "1:05" in line


def test_time_left() -> None:
    now = time.monotonic()
    assert time_left(0.5, 2, None) == ""
    assert time_left(0.0, 2, now) == ""
    assert time_left(1.0, 4, now - 1200) == "1:00:00"
