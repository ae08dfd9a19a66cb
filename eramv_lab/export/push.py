"""A folder sent to the hub, with its card."""

from __future__ import annotations

from pathlib import Path

from eramv_lab.errors import LabError, Problem, UserError


def check_repo(repo: str) -> None:
    """Raise UserError for what cannot be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(Problem(message=str(error), key="--push")) from None


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Send every file of `folder` to the hub's model repository `repo`; its address.

    The repository is made where there is none, `private` or as its owner's new ones are. Raises
    LabError where the hub cannot be reached or refuses (the folder stays), UserError where
    `private` is asked for and the repository is open to all.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(f"{repo} is there already and open to all: nothing was sent")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{folder.name}")
    except UserError:
        raise
    except Exception as error:  # of the hub, of the network, of the log-in: each has its own kind
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LabError(
            f"{folder} is written, but could not be sent to {repo}: {first}\n"
            f"    once that is mended: hf upload {repo} {folder}"
        ) from error
    return str(address)
