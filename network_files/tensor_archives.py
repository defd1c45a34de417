"""Read what `torch.save` has written, without executing anything in it.

Since PyTorch 1.6 that is a zip archive of one pickle and raw numbers; before, it was several pickles in a row, and the
numbers after them.

`torch.load` imports what a pickle names from a list of its own, and lets it allocate any amount of memory. Here the
pickle is read by the machine for network pickles, and a tensor consists of bytes that are in the file. Memory stays
within 8 times the size of the file plus 400 MB, for any content.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from typing import Any

import torch

from dnnlib.files import open_regular
from network_files.pickle_readers import READERS, STORAGE_DTYPES, STORAGE_READERS, STREAM_MAGIC, STREAM_PROTOCOL
from plain_pickle.machine import Budget, Machine

_MAX_PICKLE_BYTES = 2**24  # a training state has some 100,000, of all tensors but their numbers
_PICKLE_NAME = 'data.pkl'
_NAMES = (
    'collections.OrderedDict',
    'torch.Size',
    'torch._utils._rebuild_tensor_v2',
    'torch._utils._rebuild_parameter',
)


class DamagedArchive(ValueError):
    """A file that is not intact, or not what `torch.save` writes; the text completes 'it is damaged (...)'."""


def load(path: str | os.PathLike) -> Any:
    """Read plain data and tensors on the CPU.

    Every part that is read is compared with its checksum.

    Args:
        path: Regular file.

    Raises:
        OSError: It cannot be opened.
        DamagedArchive: It is damaged, or contains something else.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read(archive, os.fstat(file.fileno()).st_size)
        except MemoryError:
            raise
        except Exception as error:  # zipfile and PyTorch raise anything for damaged archives
            raise DamagedArchive(' '.join(str(error).split())[:200] or type(error).__name__) from error


def loads(content: bytes, readers: dict[str, Any] | None = None, keep_foreign: bool = False) -> Any:
    """Read the content of a file of `torch.save`, of any version.

    Args:
        content: The whole file.
        readers: What the pickle may name. None: tensors and plain data.
        keep_foreign: As in `safe_pickle.loads`.

    Raises:
        DamagedArchive: It is damaged, or contains something else.
    """
    try:
        if content.startswith(b'PK'):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return _read(archive, len(content), readers, keep_foreign)
        return _read_stream(content, readers, keep_foreign)
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedArchive(' '.join(str(error).split())[:200] or type(error).__name__) from error


def _read(
    archive: zipfile.ZipFile, file_size: int, readers: dict[str, Any] | None = None, keep_foreign: bool = False
) -> Any:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ValueError('it is compressed')
    if sum(info.file_size for info in infos) > file_size:
        raise ValueError('its parts are larger than the file')
    pickles = [info for info in infos if info.filename.rpartition('/')[2] == _PICKLE_NAME]
    if len(pickles) != 1:
        raise ValueError('it is not a file of torch.save')
    pickle_info = pickles[0]
    if pickle_info.file_size > _MAX_PICKLE_BYTES:
        raise ValueError(f'its pickle has {pickle_info.file_size:,} bytes')
    folder = pickle_info.filename.removesuffix(_PICKLE_NAME)
    if f'{folder}byteorder' in archive.namelist() and archive.read(f'{folder}byteorder') != b'little':
        raise ValueError('it was written on a machine with another byte order')
    storages = _Storages(archive, f'{folder}data/')
    content = archive.read(pickle_info)
    machine = Machine(io.BytesIO(content), _all(readers), Budget(len(content)), storages.load, keep_foreign)
    try:
        return machine.run()
    except pickle.UnpicklingError as error:
        raise ValueError(f'its pickle is {error}' if str(error).startswith('damaged') else str(error)) from error


def _all(readers: dict[str, Any] | None) -> dict[str, Any]:
    return STORAGE_READERS | ({name: READERS[name] for name in _NAMES} if readers is None else readers)


def _read_stream(content: bytes, readers: dict[str, Any] | None, keep_foreign: bool) -> Any:
    """Read a file of PyTorch before 1.6: pickles of two numbers, the system, the value and the list of storages."""
    file, budget = io.BytesIO(content), Budget(len(content))
    magic, protocol, system = (Machine(file, {}, budget).run() for _ in range(3))
    if magic != STREAM_MAGIC or protocol != STREAM_PROTOCOL or not system.get('little_endian', True):
        raise ValueError('it is not a file of torch.save')
    storages: dict[str, torch.Tensor] = {}
    num_bytes = 0

    def reserve(reference: Any) -> torch.Tensor:
        """Return the memory of a storage, whose numbers follow after the pickles."""
        nonlocal num_bytes
        key, dtype, count = _parsed(reference)
        if key not in storages:
            num_bytes += count * dtype.itemsize
            if not 0 <= num_bytes <= len(content):
                raise ValueError('its storages are larger than the file')
            storages[key] = torch.zeros(count, dtype=dtype)
        if storages[key].dtype != dtype or len(storages[key]) != count:
            raise ValueError('a storage with two descriptions')
        return storages[key]

    value = Machine(file, _all(readers), budget, reserve, keep_foreign).run()
    keys = Machine(file, {}, budget).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != {*storages}:
        raise ValueError('the list of its storages is damaged')
    for key in dict.fromkeys(keys):
        storage = storages[key]
        count = int.from_bytes(file.read(8), 'little')
        values = bytearray(file.read(len(storage) * storage.dtype.itemsize))
        if count != len(storage) or len(values) != len(storage) * storage.dtype.itemsize:
            raise ValueError('it is not complete')
        if count:
            storage.copy_(torch.frombuffer(values, dtype=storage.dtype))
    return value


def _parsed(reference: Any) -> tuple[str, torch.dtype, int]:
    """Return key, dtype and number of elements of the storage that a persistent ID refers to."""
    if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[5:] not in ((), (None,)):
        raise ValueError('a storage in an unknown layout')
    kind, storage_type, key, _location, count = reference[:5]
    if kind != 'storage' or type(count) is not int or not isinstance(key, str):
        raise ValueError('a storage in an unknown layout')
    return key, STORAGE_DTYPES[storage_type.name.removeprefix('torch.')], count


class _Storages:
    """The numbers of the tensors in an archive, as one-dimensional tensors, each of which is read once.

    Args:
        archive: The archive.
        folder: The beginning of the names of its entries with numbers.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self._archive, self._folder = archive, folder
        self._loaded: dict[str, torch.Tensor] = {}

    def load(self, reference: Any) -> torch.Tensor:
        """Return the numbers that a persistent ID of the pickle refers to."""
        key, dtype, count = _parsed(reference)
        if key not in self._loaded:
            values = bytearray(self._archive.read(f'{self._folder}{key}'))
            if len(values) != count * dtype.itemsize:
                raise ValueError(f'a storage of {count} values that contains {len(values)} bytes')
            self._loaded[key] = torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        storage = self._loaded[key]
        if storage.dtype != dtype or len(storage) != count:
            raise ValueError('a storage with two descriptions')
        return storage
