"""Read what `torch.save` has written, a zip archive of one pickle and raw numbers, without executing anything in it.

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
from network_files.pickle_readers import READERS, STORAGE_DTYPES, STORAGE_READERS
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


def _read(archive: zipfile.ZipFile, file_size: int) -> Any:
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
    readers = STORAGE_READERS | {name: READERS[name] for name in _NAMES}
    machine = Machine(io.BytesIO(content), readers, Budget(len(content)), storages.load)
    try:
        return machine.run()
    except pickle.UnpicklingError as error:
        raise ValueError(f'its pickle is {error}' if str(error).startswith('damaged') else str(error)) from error


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
        if not isinstance(reference, tuple) or len(reference) != 5:
            raise ValueError('a storage in an unknown layout')
        kind, storage_type, key, _location, count = reference
        if kind != 'storage' or type(count) is not int or not isinstance(key, str):
            raise ValueError('a storage in an unknown layout')
        dtype = STORAGE_DTYPES[storage_type.name.removeprefix('torch.')]
        if key not in self._loaded:
            values = bytearray(self._archive.read(f'{self._folder}{key}'))
            if len(values) != count * dtype.itemsize:
                raise ValueError(f'a storage of {count} values that contains {len(values)} bytes')
            self._loaded[key] = torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        storage = self._loaded[key]
        if storage.dtype != dtype or len(storage) != count:
            raise ValueError('a storage with two descriptions')
        return storage
