"""Networks as safetensors files: raw tensors with a description in JSON, which cannot contain code.

Tensors are named `G_ema.synthesis.b4.const`. The metadata of the file is a dict of strings: `format` (FORMAT),
`version` ('1'), `networks` (JSON: `class_name`, `init_args`, `init_kwargs` by key) and `other` (JSON: the other keys of
a network pickle, such as `training_set_kwargs`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch

from dnnlib.files import atomic_file
from dnnlib.json_input import parse_json
from dnnlib.text import excerpt
from network_files import construction
from network_files.errors import NetworkPickleError
from network_files.generations import KNOWN_CLASSES
from torch_utils import persistence

FORMAT = 'ada-gan-networks'
_VERSION = '1'
_LENGTH_BYTES = 8  # of the header's length, at the start of the file
_MAX_HEADER_BYTES = 4_000_000  # networks at 1024² need about 100,000


def require_library() -> None:
    """Raise ValueError, with the command to install it, if the safetensors library is missing."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'safetensors files need the package safetensors: pip install safetensors ({error})'
        ) from error


def is_safetensors(content: bytes) -> bool:
    """Return whether a file starts like safetensors: with the length of its header and an opening brace."""
    length = int.from_bytes(content[:_LENGTH_BYTES], 'little')
    return 2 <= length <= _MAX_HEADER_BYTES and content[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b'{'


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write(data: dict[str, Any], path: str | os.PathLike) -> None:
    """Write the result of `load_network_pkl` as a safetensors file, complete or not at all.

    Raises:
        ValueError: Something in `data` cannot be written as JSON.
    """
    require_library()
    import safetensors.torch

    networks: dict[str, Any] = {}
    other: dict[str, Any] = {}
    values: dict[str, torch.Tensor] = {}
    for key, value in data.items():
        if key == 'D' and value is data.get('G_ema'):
            other[key] = None  # it stands in for D, which only pickles need
        elif isinstance(value, torch.nn.Module):
            networks[key] = _describe(value, key)
            for name, tensor in construction.named_tensors(value).items():
                values[f'{key}.{name}'] = tensor.detach().cpu().contiguous().clone()
        else:
            other[key] = _to_json(value, key)
    metadata = dict(
        format=FORMAT,
        version=_VERSION,
        networks=_encode(networks, 'the description of the networks'),
        other=_encode(other, 'the further content'),
    )
    content = safetensors.torch.save(values, metadata=metadata)
    with atomic_file(path) as f:
        f.write(content)


def _encode(value: dict[str, Any], what: str) -> str:
    """Return JSON that `read` accepts."""
    text = json.dumps(value)
    try:
        parse_json(text, what)
    except ValueError as error:
        raise ValueError(f'safetensors files do not support such networks: write a pickle ({error})') from error
    return text


def _describe(module: Any, key: str) -> dict[str, Any]:
    class_name = type(module).__name__
    if class_name not in KNOWN_CLASSES or not persistence.is_persistent(module):
        raise ValueError(f'{key} is of class {class_name!r}, which safetensors files do not support: write a pickle')
    return dict(
        class_name=class_name,
        init_args=_to_json(module.init_args, f'{key}.init_args'),
        init_kwargs=_to_json(module.init_kwargs, f'{key}.init_kwargs'),
    )


def _to_json(value: Any, where: str) -> Any:
    """Convert a value to types of JSON: tuples, arrays and tensors become lists."""
    if isinstance(value, dict):
        return {str(key): _to_json(item, f'{where}.{key}') for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item, where) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f'{where} is a {type(value).__name__}, which safetensors files do not support: write a pickle')


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read(content: bytes, name: str, allowance: construction.Allowance, force_fp16: bool) -> dict[str, Any]:
    """Read a file written by `write`.

    Args:
        content: The whole file.
        name: Name of the file in errors.
        allowance: As in `construction.build`.
        force_fp16: As in `construction.build`.

    Raises:
        NetworkPickleError: It is damaged, or was not written by this project.
    """
    networks, other = _read_descriptions(content, name)
    tensors_of: dict[str, dict[str, torch.Tensor]] = {key: {} for key in networks}
    for full_name, tensor in read_tensors(content, name).items():
        key, _, tensor_name = full_name.partition('.')
        if key not in tensors_of:
            raise NetworkPickleError(f'{name}: {excerpt(full_name)} does not belong to any of its networks')
        tensors_of[key][tensor_name] = tensor

    data = dict(other)
    for key, description in networks.items():
        where = f'{name}: {excerpt(key)}'
        if not isinstance(description, dict):
            raise NetworkPickleError(f'{where} is not described')
        class_name = description.get('class_name')
        if not isinstance(class_name, str) or class_name not in KNOWN_CLASSES:
            raise NetworkPickleError(
                f'{where} is of class {excerpt(class_name)!r}, which this version does not support'
            )
        args, kwargs = description.get('init_args', ()), description.get('init_kwargs', {})
        fp16 = force_fp16 and key in construction.NETWORK_KEYS
        data[key] = construction.build(class_name, args, kwargs, tensors_of[key], where, allowance, fp16)
    return data


def read_metadata(content: bytes, name: str) -> dict[str, Any]:
    """Return the metadata of a safetensors file, whatever they are.

    Raises:
        NetworkPickleError: The file is damaged.
    """
    try:
        length = int.from_bytes(content[:_LENGTH_BYTES], 'little')
        header = parse_json(content[_LENGTH_BYTES : _LENGTH_BYTES + length], 'its header')
        metadata = header.get('__metadata__') or {}
        if not isinstance(metadata, dict):
            raise TypeError('its metadata has the wrong type')
    except (ValueError, TypeError, AttributeError) as error:
        raise NetworkPickleError(f'{name} is a damaged safetensors file: {excerpt(error)}') from error
    return metadata


def _read_descriptions(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    metadata = read_metadata(content, name)
    try:
        if metadata.get('format') != FORMAT:
            raise NetworkPickleError(
                f'{name} is a safetensors file, but not one of networks: only files written by legacy.py can be read'
            )
        if metadata.get('version') != _VERSION:
            raise NetworkPickleError(
                f'{name} has version {excerpt(metadata.get("version"), 20)}, but this program reads version {_VERSION}'
            )
        networks = parse_json(metadata['networks'], 'the description of its networks')
        other = parse_json(metadata['other'], 'its further content')
        if not isinstance(networks, dict) or not isinstance(other, dict):
            raise TypeError('its metadata has the wrong type')
    except NetworkPickleError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NetworkPickleError(f'{name} is a damaged safetensors file: {excerpt(error)}') from error
    return networks, other


def read_tensors(content: bytes, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        NetworkPickleError: The file is damaged.
    """
    require_library()
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise NetworkPickleError(f'{name} is a damaged safetensors file: {excerpt(error)}') from error
