"""The verb `export`: each of its ways does what its option says, and says where it wrote."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eramv_lab import cli
from eramv_lab.export import push as hub
from eramv_lab.export.files import verify
from eramv_lab.model import convert

Lab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eramv-lab", "export", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_a_study_of_one_fit_is_written_and_sent(
    made: Path, tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def push(folder: Path, repo: str, *, private: bool) -> str:
        sent.append((folder, repo, private))
        return f"https://hub/{repo}"

    monkeypatch.setattr(hub, "push", push)
    out = tmp_path / "tiny"
    code, said, _ = lab("small", out, "--runs", made, "--push", "me/tiny", "--private")
    assert (code, said.split()) == (0, [str(out), "https://hub/me/tiny"])
    assert sent == [(out, "me/tiny", True)]
    verify(out)
    code, said, err = lab("small", out, "--runs", made)
    assert (code, said) == (2, "") and err == f"error: {out}: is not empty; name a new folder\n"


def test_a_released_folder_becomes_a_standalone_one(made: Path, tmp_path: Path, lab: Lab) -> None:
    assert lab("small", tmp_path / "one", "--runs", made)[0] == 0
    assert lab(tmp_path / "one", tmp_path / "two", "--standalone")[0] == 0
    assert (tmp_path / "two" / "modeling_eramv.py").is_file()
    code, _, err = lab(tmp_path / "one", tmp_path / "three")
    assert code == 2 and "there is no study or run folder" in err


def test_llava_there_and_back(
    made: Path, tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(convert, "arm_section", lambda recipe, arm: {"recipe": recipe, "arm": arm})
    monkeypatch.setattr(
        convert, "convert_llava", lambda *args, seed: asked.append((*args, seed)) or ["a note"]
    )
    monkeypatch.setattr(convert, "to_llava", lambda *args: asked.append(args))
    words = ("--from-llava", "org/llava", "--recipe", "r.yaml", "--arm", "a", "--seed", "3")
    code, said, err = lab(tmp_path / "new", *words)
    assert (code, said, err) == (0, f"{tmp_path / 'new'}\n", "a note\n")
    section = {"recipe": Path("r.yaml"), "arm": "a"}
    assert asked.pop() == ("org/llava", tmp_path / "new", section, 3)
    fit = next((made / "small").glob("main-*"))
    assert lab("small", tmp_path / "back", "--to-llava", "--runs", made)[0] == 0
    assert asked.pop() == (fit, tmp_path / "back")


def test_a_refused_push_leaves_the_folder(made: Path, tmp_path: Path, lab: Lab) -> None:
    code, said, err = lab("small", tmp_path / "tiny", "--runs", made, "--push", "me/tiny")
    assert code == 1 and said.strip() == str(tmp_path / "tiny") and "could not be sent" in err
    verify(tmp_path / "tiny")
