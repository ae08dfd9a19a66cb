"""Folders that appear whole, what earlier attempts left beside them, what is never replaced."""

from pathlib import Path

import pytest

from eramv_lab.data.files import locked
from eramv_lab.errors import UserError
from eramv_lab.files import made_beside, new_folder


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


def test_what_a_user_has_is_never_replaced(tmp_path: Path) -> None:
    out, file, link = tmp_path / "out", tmp_path / "file", tmp_path / "link"
    out.mkdir()
    with new_folder(out) as fresh:  # an empty one is taken
        (fresh / "all").write_text("whole")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for taken, said in ((out, "is not empty"), (file, "not a folder"), (link, "not a folder")):
        with pytest.raises(UserError, match=said), new_folder(taken):
            raise AssertionError("the block began")
    with pytest.raises(OSError), new_folder(tmp_path / "late") as fresh:
        (fresh / "all").write_text("ours")
        (tmp_path / "late").mkdir()
        (tmp_path / "late" / "mine").write_text("theirs")
    assert (tmp_path / "late" / "mine").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "late", "link", "out"]
