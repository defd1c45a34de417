"""Features of real images, kept on disk: found by what they are of, never by where that lies.

The key of an entry says everything that its numbers depend on: digests of the dataset's content and of the detector,
and how many images were looked at, mirrored or not. Files are plain npz archives (nothing in them is executed) with
their key and a digest of their arrays inside. What is damaged, or belongs to another key, is computed again, and a
notice says so.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from dnnlib.files import atomic_file
from dnnlib.progress import Progress
from dnnlib.util import make_cache_dir_path
from training.dataset import ImageFolderDataset

FORMAT = 1  # part of every key: raise it when the same key would mean other numbers
_KEY = 'key'
_DIGEST = 'sha256'

# Two changes of a file within this time may leave it with the same times and size.
_CLOCK_TICK_SEC = 3


def cache_folder() -> Path:
    return Path(make_cache_dir_path('gan-metrics'))


class StatisticsCache:
    """Arrays by key. What cannot be written to disk stays in memory as long as this object lives."""

    def __init__(self):
        self._in_memory: dict[str, dict[str, np.ndarray]] = {}

    def load(self, key: dict) -> dict[str, np.ndarray] | None:
        """The arrays of `key`, or None where there are none that are sound."""
        text = _canonical(key)
        if text in self._in_memory:
            return self._in_memory[text]
        path = _path_of(text)
        try:
            return _read(path, text)
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever the reader of a damaged file raises
            reason = ' '.join(str(error).split())[:100]
            _notice(f'{path} cannot be used ({reason}); its statistics are computed again.')
            return None

    def save(self, key: dict, arrays: dict[str, np.ndarray]) -> None:
        text = _canonical(key)
        path = _path_of(text)
        try:
            with atomic_file(path) as file:
                extra = {_KEY: np.array(text), _DIGEST: np.array(_digest(arrays))}
                np.savez(file, **arrays, **extra)
        except OSError as error:
            _notice(f'{path} cannot be written ({error.strerror}); its statistics are not kept for another time.')
            self._in_memory[text] = arrays


def _canonical(key: dict) -> str:
    return json.dumps({'format': FORMAT, **key}, sort_keys=True)


def _path_of(text: str) -> Path:
    return cache_folder() / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz'


def _read(path: Path, text: str) -> dict[str, np.ndarray]:
    """Raises some error for anything but the sound entry of the key `text`."""
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    if str(arrays.pop(_KEY)) != text:
        raise ValueError('it belongs to other data')
    if str(arrays.pop(_DIGEST)) != _digest(arrays):
        raise ValueError('it is damaged')
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f'{name} {array.dtype.str} {array.shape}\n'.encode())
        digest.update(array.data if array.size else b'')
    return digest.hexdigest()


def _notice(text: str) -> None:
    print(f'Metrics cache: {text}', file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Digests of datasets


def content_sha256(dataset: ImageFolderDataset, shown: bool = True) -> str:
    """Digest of a dataset's images and labels.

    Reading them all takes a while, so the digest is kept beside the statistics, with a fingerprint of the file (or of
    all files of the folder) that changes whenever one is written. One that was taken too soon after a change is not
    kept, as the next change could have the same fingerprint.
    """
    taken_at = time.time()
    fingerprint, last_change = dataset.fingerprint()
    memo = cache_folder() / f'content-{fingerprint[:32]}.json'
    known = _read_memo(memo, fingerprint)
    if known is not None:
        return known
    with Progress('Digest of the dataset', unit='file', shown=shown) as progress:
        digest = dataset.content_sha256(progress.show)
    unchanged = dataset.fingerprint()[0] == fingerprint
    if unchanged and taken_at - last_change > _CLOCK_TICK_SEC:
        try:
            with atomic_file(memo) as file:
                file.write(json.dumps({'fingerprint': fingerprint, 'content': digest}).encode())
        except OSError as error:
            _notice(f'{memo} cannot be written ({error.strerror}); the dataset is read again the next time.')
    return digest


def _read_memo(path: Path, fingerprint: str) -> str | None:
    try:
        memo = json.loads(path.read_bytes())
        sound = memo['fingerprint'] == fingerprint and len(bytes.fromhex(memo['content'])) == 32
        return memo['content'] if sound else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        _notice(f'{path} is damaged; the dataset is read again.')
        return None
