"""Commits and snapshots of models and data sets on the Hugging Face hub."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from solar_repro.errors import UserError

REVISION = "revision:"
"""Precedes the commit in the digest of a hub id."""
RepoType = Literal["model", "dataset"]


def hub_commit(repo_id: str, repo_type: RepoType, message: Callable[[str], str]) -> str:
    """Return the newest commit of a hub id; raises UserError with `message(reason)` if that fails."""
    with _hub_errors(message):
        api = huggingface_hub.HfApi()
        info = api.model_info(repo_id) if repo_type == "model" else api.dataset_info(repo_id)
        return info.sha


def hub_snapshot(
    repo_id: str,
    repo_type: RepoType,
    message: Callable[[str], str],
    commit: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """Download a hub id to the Hugging Face cache and return its folder.

    `commit` None takes the newest, and `patterns` None takes all files. Raises UserError with
    `message(reason)`.
    """
    with _hub_errors(message):
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, repo_type=repo_type, revision=commit, allow_patterns=patterns
            )
        )


def dataset_files(repo_id: str, commit: str | None, message: Callable[[str], str]) -> list[str]:
    """Names of the files of a data set that are downloaded (`wanted_files`); errors as `hub_snapshot`."""
    with _hub_errors(message):
        files = huggingface_hub.HfApi().list_repo_files(repo_id, repo_type="dataset", revision=commit)
        return wanted_files(files)


def wanted_files(names: Sequence[str]) -> list[str]:
    """Those files of a data set that are read: where there are parquet files, they and the card.

    Many sets have the same rows a second time, as text or in an archive.
    """
    if not any(name.endswith(".parquet") for name in names):
        return list(names)
    return [name for name in names if name.endswith(".parquet") or name == "README.md"]


class NotOnHub(UserError):
    """The hub answers that it has no such model or data set."""


@contextmanager
def _hub_errors(message: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's client raises OSError, ValueError or its HTTP library's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # A gated repository is there; the hub says so in an error of its own.
        missing = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        raise (NotOnHub if missing else UserError)(message(reason)) from None
