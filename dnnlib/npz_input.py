"""Reading npz and npy files from outside: the shape of an array is known before any of its numbers is expanded."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from dnnlib.archives import Archive
from dnnlib.files import open_regular

_SUFFIX = '.npy'
_KINDS = 'biufU'  # booleans, numbers and text, which need no pickles
_PIECE_BYTES = 2**20


class DamagedNpz(ValueError):
    """A file that is not an intact npz file of plain arrays."""


class Npz:
    """An npz file that is open for reading.

    Args:
        path: Regular file.

    Attributes:
        names: Names of its arrays.

    Raises:
        OSError: The file cannot be opened.
        DamagedNpz: It is not an npz file.
    """

    def __init__(self, path: str | os.PathLike):
        with _errors_named():
            self._archive = Archive(path)
        entries = self._archive.namelist()
        self.names = list(dict.fromkeys(name.removesuffix(_SUFFIX) for name in entries if name.endswith(_SUFFIX)))

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return the shape and the type of an array.

        Raises:
            DamagedNpz: The array is damaged, or consists of Python objects or structures.
        """
        with _errors_named(), self._open(name) as file:
            shape, _is_fortran, dtype = _read_header(file)
        return shape, dtype

    def read(self, name: str, max_bytes: int) -> np.ndarray:
        """Return an array.

        Raises:
            DamagedNpz: As in `header`, or the array is larger than `max_bytes`.
        """
        with _errors_named(), self._open(name) as file:
            return _read_array(file, repr(name), max_bytes)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open(self, name: str) -> IO[bytes]:
        info = self._archive.getinfo(name + _SUFFIX)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f'{name!r} is compressed in an unknown way')
        return self._archive.open(info)


def is_npy(content: bytes) -> bool:
    """Return whether a file that begins with these bytes is an npy file."""
    return content.startswith(b'\x93NUMPY')


def read_npy(path: str | os.PathLike, max_bytes: int) -> np.ndarray:
    """Return the array in an npy file.

    Raises:
        OSError: The file cannot be opened.
        DamagedNpz: It is damaged, consists of Python objects or structures, or is larger than `max_bytes`.
    """
    with open_regular(path) as file, _errors_named():
        return _read_array(file, 'the array', max_bytes)


def _read_array(file: IO[bytes], name: str, max_bytes: int) -> np.ndarray:
    """Read an array and the end of its file."""
    shape, is_fortran, dtype = _read_header(file)
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > max_bytes:
        raise ValueError(f'{name} has {num_bytes:,} bytes, but at most {max_bytes:,} are read')
    content = np.empty(num_bytes, dtype=np.uint8)
    filled = 0
    while filled < num_bytes:
        piece = file.read(min(_PIECE_BYTES, num_bytes - filled))
        if not piece:
            raise EOFError(f'{name} is not complete')
        content[filled : filled + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        filled += len(piece)
    if file.read(1):  # at the end, zipfile compares the checksum
        raise ValueError(f'{name} is longer than its header says')
    array = content.view(dtype) if num_bytes else np.empty(0, dtype)
    return array.reshape(shape, order='F' if is_fortran else 'C')


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about headers that Python 2 wrote, and odd expressions in them
        shape, is_fortran, dtype = read(file)
    if dtype.kind not in _KINDS or min(shape, default=0) < 0:
        raise ValueError(f'an array of type {dtype} and shape {list(shape)}')
    return shape, is_fortran, dtype


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever zipfile and numpy raise, which parses headers like expressions of Python
        raise DamagedNpz(' '.join(str(error).split())[:200] or type(error).__name__) from error
