"""The bench runs from end to end; how fast anything is, no test asserts."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"systems": 6, "cache": 1, "loop": 6, "data": 4, "reading": 4, "start": 6}


def test_bench_tells_every_ratio():
    done = subprocess.run(
        [sys.executable, "tests/bench.py", "--tiny", "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    groups = json.loads(done.stdout)
    assert {name: len(rows) for name, rows in groups.items()} == ROWS
    for row in (row for rows in groups.values() for row in rows):
        assert set(row) == {"name", "ratio", "goal", "met", "of"}
        assert row["ratio"] > 0 and (row["met"] is None) == (row["goal"] is None), row
    assert [row["goal"] for row in groups["systems"]] == [">= 0.8", None, None] * 2
    assert {row["goal"] for row in groups["loop"]} == {"<= 1.05"}
    assert [row["goal"] for row in groups["reading"]] == ["<= 1.05"] * 3 + [">= 1"]
