"""A cache on disk for features of real images.

The key of an entry contains everything that its numbers depend on: digests of the content of the dataset and of the
detector, the number of images, and whether they are mirrored. Paths are not part of it. The files are plain npz
archives (nothing in them is executed) that contain their key and a digest of their arrays. Entries that are damaged,
belong to another key or have other shapes than expected are computed again, with a notice.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.files import atomic_file
from dnnlib.npz_input import Npz
from dnnlib.scratch import remove_abandoned
from dnnlib.util import make_cache_dir_path

FORMAT = 1  # part of every key; to be increased when the same key would mean other numbers
_MAX_OTHER_BYTES = 2**20  # of an entry: its key, its digest, and headers
_KEY = 'key'
_MAX_ARRAYS = 100
_DIGEST = 'sha256'


def cache_folder() -> Path:
    """Return the folder of the entries."""
    return Path(make_cache_dir_path('gan-metrics'))


@dataclass(frozen=True)
class ArrayKind:
    """Shape and NumPy type of an array."""

    shape: tuple[int, ...]
    dtype: str


class StatisticsCache:
    """Arrays by key. Entries that cannot be written to disk are kept in memory as long as this object exists."""

    def __init__(self) -> None:
        self._in_memory: dict[str, dict[str, np.ndarray]] = {}
        remove_abandoned(cache_folder())

    def load(self, key: dict[str, Any], expected: Mapping[str, ArrayKind]) -> dict[str, np.ndarray] | None:
        """Return the arrays of `key`, or None if there is no intact entry.

        Args:
            key: Key of the entry.
            expected: Shape and type of each array that it must have.
        """
        text = _canonical(key)
        if text in self._in_memory:
            return self._in_memory[text]
        path = _path_of(text)
        try:
            return _read(path, text, expected)
        except FileNotFoundError:
            return None
        except Exception as error:  # The reader of a damaged file can raise anything.
            reason = ' '.join(str(error).split())[:100]
            _notice(f'{path} cannot be used ({reason}); its statistics will be computed again.')
            return None

    def save(self, key: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under `key`; if that fails, keep them in memory and print a notice."""
        text = _canonical(key)
        path = _path_of(text)
        try:
            with atomic_file(path) as file:
                content: dict[str, Any] = {**arrays, _KEY: np.array(text), _DIGEST: np.array(_digest(arrays))}
                np.savez(file, **content)
        except OSError as error:
            _notice(f'{path} cannot be written ({error.strerror}); its statistics are not stored for later runs.')
            self._in_memory[text] = arrays


def _canonical(key: dict[str, Any]) -> str:
    return json.dumps({'format': FORMAT, **key}, sort_keys=True)


def _path_of(text: str) -> Path:
    return cache_folder() / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz'


def _read(path: Path, text: str, expected: Mapping[str, ArrayKind]) -> dict[str, np.ndarray]:
    """Return the arrays of a file, or raise an error of any type if it is not an intact entry of the key `text`."""
    num_left = sum(math.prod(kind.shape) * np.dtype(kind.dtype).itemsize for kind in expected.values())
    num_left += _MAX_OTHER_BYTES
    arrays: dict[str, np.ndarray] = {}
    with Npz(path) as npz:
        if len(npz.names) > _MAX_ARRAYS:
            raise ValueError(f'it has {len(npz.names)} arrays')
        for name in npz.names:
            arrays[name] = npz.read(name, num_left)
            num_left -= arrays[name].nbytes
    if str(arrays.pop(_KEY)) != text:
        raise ValueError('it belongs to other data')
    if str(arrays.pop(_DIGEST)) != _digest(arrays):
        raise ValueError('it is damaged')
    kinds = {name: ArrayKind(array.shape, array.dtype.name) for name, array in arrays.items()}
    if kinds != dict(expected):
        raise ValueError('its arrays have other shapes or types')
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
