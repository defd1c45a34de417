"""Upload a folder to a hub with huggingface_hub: one commit, all of it or nothing."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dnnlib.text import excerpt
from network_files import hub

# The roots of modules whose errors are about the connection or the answer; which of them is used depends on the
# version of huggingface_hub.
_LIBRARIES = ('huggingface_hub', 'httpx', 'httpx2', 'httpcore', 'httpcore2', 'requests', 'urllib3', 'hf_xet')


class UploadError(hub.HubError):
    """An upload that is not possible, or has failed; the message is a sentence for the user."""


def check_destination(repo: str, private: bool) -> None:
    """Ask the hub whether a repository can be written, as far as that can be known before.

    Args:
        repo: 'owner/name'; it may not exist yet.
        private: Whether it must be private.

    Raises:
        UploadError: It cannot be written, or is public although it must be private.
    """
    api = _api()
    with _asking_hub(repo):
        is_there = api.repo_exists(repo)
        is_public = is_there and private and not api.model_info(repo).private
    if is_public:
        raise UploadError(
            f'{repo} exists and is public, and uploading does not change that: make it private in its settings, use '
            'another name, or leave out --private.'
        )


def upload(folder: Path, repo: str, private: bool, branch: str | None, message: str, outdated: Sequence[str]) -> str:
    """Upload all files of a folder as one commit, and return its address.

    Args:
        folder: Files at the top level only.
        repo: 'owner/name'; it is created if it does not exist.
        private: Whether a new repository is private.
        branch: Branch, which is created if it does not exist; None: the main one.
        message: Of the commit.
        outdated: Names of files that are deleted in the repository if the folder does not have them.

    Raises:
        UploadError: The upload has failed; the repository may exist without the files then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    with _asking_hub(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
        present = set(api.list_repo_files(repo, revision=branch))
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in names]
        operations += [CommitOperationDelete(name) for name in outdated if name in present and name not in names]
        result = api.create_commit(repo, operations, commit_message=message, revision=branch)
    return excerpt(result.commit_url)


def _api() -> Any:
    """Return the interface to the hub with the user's token.

    Raises:
        UploadError: The hub may not be asked, or there is no token.
        HubError: huggingface_hub is missing.
    """
    hub.require_library()
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UploadError('Nothing can be uploaded, since HF_HUB_OFFLINE is set: unset it, or use --dry-run.')
    token = huggingface_hub.get_token()
    if not token:
        raise UploadError(
            f'Uploading needs a token with the right to write: log in with {hub.LOG_IN}, or set HF_TOKEN.'
        )
    return huggingface_hub.HfApi(token=token, library_name='ada-gan')


@contextlib.contextmanager
def _asking_hub(repo: str) -> Iterator[None]:
    """Convert what huggingface_hub raises to UploadError, without the token, and show no bars outside of a terminal."""
    from huggingface_hub import utils

    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # It warns of how it calls a library of its own.
            warnings.simplefilter('ignore', DeprecationWarning)
            yield
    except Exception as error:
        is_expected = isinstance(error, (OSError, ValueError, RuntimeError))
        if not is_expected and type(error).__module__.split('.')[0] not in _LIBRARIES:
            raise
        raise UploadError(f'{repo} was not uploaded: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    import huggingface_hub

    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the upload of one file
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    if status == 401:
        return f'the hub does not accept the token: log in again with {hub.LOG_IN}, or set HF_TOKEN.'
    if status == 403:
        return 'the token has no right to write there: use the name of your account, or a token of that organization.'
    said = getattr(error, 'server_message', None) or str(error) or type(error).__name__
    token = huggingface_hub.get_token()
    said = said.replace(token, '(token)') if token else said
    return f'{"" if status is None else f"the hub returned {status}: "}{excerpt(said, 300).rstrip(".")}.'
