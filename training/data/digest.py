"""The digest of a dataset's content, kept in the cache so that a dataset is read only once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.progress import Progress
from dnnlib.schema import Record, Text
from dnnlib.util import make_cache_dir_path

# Two changes of a file within this time may leave it with the same times and size.
_CLOCK_TICK_SEC = 3

_STORED = Record(
    {'fingerprint': Text(1000), 'content': Text(64, pattern='[0-9a-f]{64}', kind='a SHA-256')},
    required=['fingerprint', 'content'],
)


class StoredDataset(Protocol):
    """A dataset that can digest its files, such as `training.dataset.ImageFolderDataset`."""

    def content_sha256(self, progress: Callable[[int, int], object] | None = None) -> str:
        """Return the digest of all images and labels."""

    def fingerprint(self) -> tuple[str, float]:
        """Return text that changes when a file is written, and the time of the last change."""


def content_sha256(dataset: StoredDataset, verbose: bool = True) -> str:
    """Return the digest of a dataset's images and labels.

    Reading all of them takes a while, so the digest is stored in the cache, together with a fingerprint of the archive
    (or of all files of the folder) that changes whenever one is written. A digest taken too soon after a change is not
    stored, because the next change could have the same fingerprint.

    Args:
        dataset: An opened dataset.
        verbose: Show the progress.
    """
    start_time = time.time()
    fingerprint, last_change = dataset.fingerprint()
    path = Path(make_cache_dir_path('gan-metrics')) / f'content-{fingerprint[:32]}.json'
    stored = _read_stored(path, fingerprint)
    if stored is not None:
        return stored
    with Progress('Digest of the dataset', unit='file', enabled=verbose) as progress:
        digest = dataset.content_sha256(progress.show)
    is_unchanged = dataset.fingerprint()[0] == fingerprint
    if is_unchanged and start_time - last_change > _CLOCK_TICK_SEC:
        try:
            with atomic_file(path) as file:
                file.write(json.dumps({'fingerprint': fingerprint, 'content': digest}).encode())
        except OSError as error:
            _notice(f'{path} cannot be written ({error.strerror}); the dataset will be read again next time.')
    return digest


def _read_stored(path: Path, fingerprint: str) -> str | None:
    try:
        stored = read_json(path)
        _STORED.check(stored, str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        _notice(f'{path} is damaged; the dataset is read again.')
        return None
    return stored['content'] if stored['fingerprint'] == fingerprint else None


def _notice(text: str) -> None:
    print(f'Dataset digest: {text}', file=sys.stderr, flush=True)
