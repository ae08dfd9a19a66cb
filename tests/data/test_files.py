"""Folders that appear whole, and what earlier attempts left beside them."""

from pathlib import Path

import pytest

from eramv_lab.data.files import locked, made_beside


def test_what_a_kill_left_behind_goes_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for name in (".made.abcdefgh", ".made.importing", ".other.abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("half")
    with locked(target), made_beside(target) as fresh:
        (fresh / "all").write_text("whole")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".made.importing", ".made.lock", ".other.abcdefgh", "made"]
    assert (target / "all").read_text() == "whole"


def test_a_block_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "all").write_text("before")
    with pytest.raises(RuntimeError), made_beside(target) as fresh:
        (fresh / "all").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (target / "all").read_text() == "before"
