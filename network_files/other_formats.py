"""Recognize files that are often taken for network pickles: those of `torch.save`, archives, plain pickles of a module.

Of an archive only the names of its members are read.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dnnlib.text import excerpt
from network_files.safe_pickle import ForeignObject, PersistentObject

TORCH_SAVE = 'a file of torch.save (a module, a state dict or a checkpoint)'
"""What `recognize` returns for files of `torch.save`, some of which `network_files.reading` opens."""

_MAX_NAMES = 10_000
_MAX_NAME_BYTES = 1000
_MAX_DIRECTORY_BYTES = 16_000_000  # at the end of a zip archive, where the names of its members are
_ZIP_MEMBER, _ZIP_DIRECTORY_ENTRY = b'PK\x03\x04', b'PK\x01\x02'
_TAR_BLOCK = 512
_TORCH_STREAM = b'\x8a\n' + (0x1950A86A20F9469CFC6C).to_bytes(10, 'little') + b'.'  # a pickle of one number
_MAX_BYTES_BEFORE_STREAM = 11  # protocol and frame


def recognize(content: bytes) -> str | None:
    """Return what a file is ('an npz archive of NumPy'), or None if it may be a network file."""
    if content.startswith(_ZIP_MEMBER):
        return _kind_of_zip(_names_in_zip(content))
    if content[257:262] == b'ustar':
        names = _names_in_tar(content)
        return TORCH_SAVE if len({'pickle', 'tensors', 'storages'} & set(names)) > 1 else _archive('tar', names)
    if content[:1] == pickle.PROTO and _TORCH_STREAM in content[: len(_TORCH_STREAM) + _MAX_BYTES_BEFORE_STREAM]:
        return TORCH_SAVE
    return None


def kind_of_value(value: Any) -> str:
    """Return what the content of a pickle is, as part of a sentence: 'a state dict', 'a list'."""
    if isinstance(value, (PersistentObject, ForeignObject)):
        return f'an object of class {excerpt(value.class_name)!r}'
    if isinstance(value, torch.nn.Module):
        return f'a module of class {type(value).__name__!r}'
    if isinstance(value, Mapping) and value and all(isinstance(v, (torch.Tensor, np.ndarray)) for v in value.values()):
        return 'a state dict'
    return f'a {type(value).__name__}'


# ---------------------------------------------------------------------------------------------------------------------
# Archives


def _kind_of_zip(names: list[str]) -> str:
    files = {name.rpartition('/')[2] for name in names}
    if 'archive_format' in files or 'serialized_exported_program.json' in files:
        return 'a program of torch.export'
    if 'data.pkl' in files:
        return 'a TorchScript module of torch.jit.save' if 'constants.pkl' in files else TORCH_SAVE
    if names and all(name.endswith('.npy') for name in names):
        return 'an npz archive of NumPy'
    return _archive('zip', names)


def _archive(kind: str, names: list[str]) -> str:
    return f'a {kind} archive' + (f' that contains {excerpt(names[0], 60)}' if names else '')


def _names_in_zip(content: bytes) -> list[str]:
    """Return the names of the members: the first by its own header, and those in the directory, if it is complete."""
    names = [_zip_name(content, 30, content[26:28])]
    position = max(0, len(content) - _MAX_DIRECTORY_BYTES)
    while len(names) < _MAX_NAMES and (position := content.find(_ZIP_DIRECTORY_ENTRY, position)) >= 0:
        names.append(_zip_name(content, position + 46, content[position + 28 : position + 30]))
        position += len(_ZIP_DIRECTORY_ENTRY)
    return [name for name in names if name]


def _zip_name(content: bytes, start: int, length: bytes) -> str:
    size = min(int.from_bytes(length, 'little'), _MAX_NAME_BYTES)
    return content[start : start + size].decode(errors='replace')


def _names_in_tar(content: bytes) -> list[str]:
    names: list[str] = []
    position = 0
    while len(names) < _MAX_NAMES and content[position + 257 : position + 262] == b'ustar':
        names.append(content[position : position + 100].rstrip(b'\0').decode(errors='replace'))
        digits = content[position + 124 : position + 136].strip(b' \0')
        if not digits.isdigit() or set(digits) & set(b'89'):
            break
        position += _TAR_BLOCK * (1 + -(-int(digits, 8) // _TAR_BLOCK))
    return names
