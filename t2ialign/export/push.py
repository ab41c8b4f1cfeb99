"""An exported folder as a repository of the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from t2ialign.backbones.hub import HUB_ID, one_line
from t2ialign.errors import EnvironmentProblem, InputError


def check_repository(repo: str) -> None:
    """Checks that a repository of the hub may be called so, before anything is written.

    Raises:
        InputError: it may not.
    """
    if HUB_ID.fullmatch(repo) is None:
        raise InputError(f"--push-to {repo}: write the repository as OWNER/NAME")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Uploads a folder, makes the repository where there is none, and returns its address.

    The login is huggingface_hub's own (`hf auth login`, or HF_TOKEN); nothing here reads or writes a token.

    Args:
        private: of a repository that is made.

    Raises:
        EnvironmentProblem: there is no login, no right to write there, or no connection; the folder is whole.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of t2ialign")
    except Exception as error:  # the network's errors have no common base
        raise EnvironmentProblem(
            f"{repo}: not uploaded ({one_line(error)}); log in with `hf auth login`, check the connection and the "
            f"right to write there, then run `hf upload {repo} {folder}`: the folder is whole"
        ) from error
    return str(address)
