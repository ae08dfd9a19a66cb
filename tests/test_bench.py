"""The bench runs from end to end; how fast anything is, no test asserts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"systems": 6, "prefill": 4, "cache": 1, "loop": 6, "data": 4, "reading": 4, "start": 6}


def bench(*groups: str) -> dict[str, list[dict[str, Any]]]:
    only = [word for group in groups for word in ("--only", group)]
    done = subprocess.run(
        [sys.executable, "tests/bench.py", "--tiny", "--json", *only],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for row in (row for rows in found.values() for row in rows):
        assert set(row) == {"name", "ratio", "goal", "met", "of"}
        assert row["ratio"] > 0 and (row["met"] is None) == (row["goal"] is None), row
    return found


@pytest.mark.slow
def test_bench_tells_every_ratio():
    groups = bench(*ROWS)
    assert {name: len(rows) for name, rows in groups.items()} == ROWS
    assert [row["goal"] for row in groups["systems"]] == [">= 0.8", None, None] * 2
    assert {row["goal"] for row in groups["prefill"]} == {">= 0.8"}
    assert {row["goal"] for row in groups["loop"]} == {"<= 1.05"}
    assert [row["goal"] for row in groups["reading"]] == ["<= 1.05"] * 3 + [">= 1"]


@pytest.mark.slow
def test_what_a_sweep_gains_is_the_product_of_what_it_is_owed_to():
    gain, _, *owed, _, _ = bench("sweep")["sweep"]
    assert gain["goal"] == ">= 5"
    assert math.prod(row["ratio"] for row in owed) == pytest.approx(gain["ratio"])
