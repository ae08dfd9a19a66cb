"""A folder goes to the hub with its card, or stays where it is with one clear message."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from eramv_lab.errors import LabError, UserError
from eramv_lab.export.push import check_repo, push


class Hub:
    """The hub's side: what it was asked, and whether it does it."""

    def __init__(self, *, private: bool = True, refuse: Exception | None = None) -> None:
        self.private, self.refuse = private, refuse
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo: str, **settings: Any) -> str:
        self.asked.append((repo, settings))
        if self.refuse:
            raise self.refuse
        return f"https://hub/{repo}"

    def model_info(self, repo: str) -> Any:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **settings: Any) -> None:
        self.asked.append(("upload", settings))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    def with_hub(**settings: Any) -> Hub:
        one = Hub(**settings)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: one)
        return one

    return with_hub


def test_every_file_is_sent_once_the_repository_is_there(hub: Any, tmp_path: Path) -> None:
    one = hub()
    assert push(tmp_path, "me/tiny", private=True) == "https://hub/me/tiny"
    assert one.asked[0] == ("me/tiny", {"private": True, "exist_ok": True})
    assert one.asked[1][1]["folder_path"] == tmp_path and one.asked[1][1]["repo_id"] == "me/tiny"
    push(tmp_path, "me/tiny")
    assert one.asked[2][1]["private"] is None  # as its owner's new ones are


def test_nothing_private_is_sent_where_all_can_read(hub: Any, tmp_path: Path) -> None:
    one = hub(private=False)
    with pytest.raises(UserError, match="open to all: nothing was sent"):
        push(tmp_path, "me/tiny", private=True)
    assert len(one.asked) == 1


@pytest.mark.parametrize(
    "error", [OSError("no token\nlong story"), ValueError("bad card"), ConnectionError("")]
)
def test_what_stops_it_is_one_message(hub: Any, tmp_path: Path, error: Exception) -> None:
    hub(refuse=error)
    with pytest.raises(LabError) as caught:
        push(tmp_path, "me/tiny")
    lines = str(caught.value).splitlines()
    assert (str(error).partition("\n")[0] or "ConnectionError") in lines[0]
    assert lines[1].endswith(f"hf upload me/tiny {tmp_path}") and len(lines) == 2


def test_offline_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="offline"):
        push(tmp_path, "me/tiny")


@pytest.mark.parametrize("repo", ["a/b/c", "me/ti ny", "-x/y", ""])
def test_what_cannot_be_a_repository_is_refused(repo: str) -> None:
    with pytest.raises(UserError, match="--push"):
        check_repo(repo)
