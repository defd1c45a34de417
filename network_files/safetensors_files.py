"""Networks as safetensors: raw tensors, and what they belong to as JSON. There is no place for code in such a file.

Tensors are named `G_ema.synthesis.b4.const`. The file's metadata is a dict of texts: `format` (FORMAT), `version`
('1'), `networks` (JSON: key → `class_name`, `init_args`, `init_kwargs`) and `other` (JSON: the further keys of a
network pickle, such as `training_set_kwargs`).
"""

import json
import os
from typing import Any

import numpy as np
import torch

from dnnlib.files import atomic_file
from network_files import construction
from network_files.errors import NetworkPickleError, excerpt
from torch_utils import persistence

FORMAT = 'ada-gan-networks'
_VERSION = '1'
_LENGTH_BYTES = 8  # of the header, in front of it
_MAX_HEADER_BYTES = 4_000_000  # networks at 1024² take some 100,000


def require_library() -> None:
    """Raises ValueError, with the command that installs it, where the safetensors library is missing."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise ValueError('safetensors files need a library: pip install safetensors') from error


def is_safetensors(content: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of its header, and the brace that opens it."""
    length = int.from_bytes(content[:_LENGTH_BYTES], 'little')
    return 2 <= length <= _MAX_HEADER_BYTES and content[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b'{'


# ------------------------------------------------------------------------------------------------ writing


def write(data: dict[str, Any], path: str | os.PathLike) -> None:
    """Write what `legacy.load_network_pkl` returns; under the final name there is the whole file or what was there.

    Raises ValueError where something in `data` has no place in JSON.
    """
    require_library()
    import safetensors.torch

    networks, other, values = {}, {}, {}
    for key, value in data.items():
        if isinstance(value, torch.nn.Module):
            networks[key] = _describe(value, key)
            for name, tensor in construction.named_tensors(value).items():
                values[f'{key}.{name}'] = tensor.detach().cpu().contiguous().clone()
        else:
            other[key] = _plain(value, key)
    metadata = dict(format=FORMAT, version=_VERSION, networks=json.dumps(networks), other=json.dumps(other))
    content = safetensors.torch.save(values, metadata=metadata)
    with atomic_file(path) as f:
        f.write(content)


def _describe(module: torch.nn.Module, key: str) -> dict[str, Any]:
    class_name = type(module).__name__
    if class_name not in construction.KNOWN_CLASSES or not persistence.is_persistent(module):
        raise ValueError(f'{key} is of class {class_name!r}, which a safetensors file cannot describe: write a pickle')
    return dict(
        class_name=class_name,
        init_args=_plain(module.init_args, f'{key}.init_args'),
        init_kwargs=_plain(module.init_kwargs, f'{key}.init_kwargs'),
    )


def _plain(value: Any, where: str) -> Any:
    """The same with JSON's types: tuples, arrays and tensors become lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f'{where}.{key}') for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f'{where} is a {type(value).__name__}, which has no place in a safetensors file: write a pickle')


# ------------------------------------------------------------------------------------------------ reading


def read(content: bytes, name: str, allowance: construction.Allowance, force_fp16: bool) -> dict[str, Any]:
    """What `write` was given, from the whole content of the file called `name`.

    Raises NetworkPickleError where it is damaged or not written here.
    """
    networks, other = _read_metadata(content, name)
    tensors_of: dict[str, dict[str, torch.Tensor]] = {key: {} for key in networks}
    for full_name, tensor in _read_tensors(content, name).items():
        key, _, tensor_name = full_name.partition('.')
        if key not in tensors_of:
            raise NetworkPickleError(f'{name}: {excerpt(full_name)} belongs to none of its networks')
        tensors_of[key][tensor_name] = tensor

    data = dict(other)
    for key, description in networks.items():
        where = f'{name}: {excerpt(key)}'
        if not isinstance(description, dict):
            raise NetworkPickleError(f'{where} is not described')
        class_name = description.get('class_name')
        if not isinstance(class_name, str) or class_name not in construction.KNOWN_CLASSES:
            raise NetworkPickleError(f'{where} is of class {excerpt(class_name)!r}, which this version does not know')
        args, kwargs = description.get('init_args', ()), description.get('init_kwargs', {})
        fp16 = force_fp16 and key in construction.NETWORK_KEYS
        data[key] = construction.build(class_name, args, kwargs, tensors_of[key], where, allowance, fp16)
    return data


def _read_metadata(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        length = int.from_bytes(content[:_LENGTH_BYTES], 'little')
        metadata = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length]).get('__metadata__') or {}
        if metadata.get('format') != FORMAT:
            raise NetworkPickleError(
                f'{name} is a safetensors file, but not of networks: only those that legacy.py writes can be read'
            )
        if metadata.get('version') != _VERSION:
            raise NetworkPickleError(
                f'{name} is of version {excerpt(metadata.get("version"), 20)}, and this program reads {_VERSION}'
            )
        networks, other = json.loads(metadata['networks']), json.loads(metadata['other'])
        if not isinstance(networks, dict) or not isinstance(other, dict):
            raise TypeError('its metadata is of another kind')
    except NetworkPickleError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NetworkPickleError(f'{name} is a damaged safetensors file: {excerpt(error)}') from error
    return networks, other


def _read_tensors(content: bytes, name: str) -> dict[str, torch.Tensor]:
    require_library()
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise NetworkPickleError(f'{name} is a damaged safetensors file: {excerpt(error)}') from error
