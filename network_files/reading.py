"""Open network files: pickles of PyTorch and TensorFlow, and safetensors, without executing anything in them.

`load_network_pkl` reads what `train.py` and the published PyTorch code write (a dict of `G`, `D`, `G_ema`,
`augment_pipe` and `training_set_kwargs`), the TensorFlow pickles of StyleGAN2 and StyleGAN2-ADA, and the safetensors
files of this project. The networks are rebuilt from the arguments of their constructors with the classes of this
project, then filled with the stored values, each of which must match a parameter or buffer by name and shape. Only
`trust=True` runs the source that a pickle carries, as `pickle.load` does.
"""

from __future__ import annotations

import pickle
from typing import Any, BinaryIO

import torch

from dnnlib.text import excerpt
from dnnlib.util import is_url, open_url
from network_files import construction, persistent, safe_pickle, safetensors_files
from network_files.errors import TRUST_HINT, NetworkPickleError
from network_files.plain_values import TooDeep, walk
from network_files.safe_pickle import PersistentObject
from network_files.tensorflow import conversion, sources

NETWORK_KEYS = construction.NETWORK_KEYS
_CLASS_OF = {'G': 'Generator', 'D': 'Discriminator', 'G_ema': 'Generator', 'augment_pipe': 'AugmentPipe'}
_EXPECTED_KEYS = (*_CLASS_OF, 'training_set_kwargs')
_MAX_OTHER_DEPTH = 50
_READERS = {**sources.READERS, **persistent.READERS}


def open_network(path_or_url: str, force_fp16: bool = False, trust: bool = False) -> dict[str, Any]:
    """Read a network file or URL with `load_network_pkl`.

    Raises:
        OSError: It cannot be read, or downloaded.
        NetworkPickleError: As `load_network_pkl`.
    """
    with open_url(path_or_url) as f:
        try:
            return load_network_pkl(f, force_fp16=force_fp16, trust=trust)
        except NetworkPickleError as error:
            if not is_url(path_or_url):
                raise
            raise NetworkPickleError(
                f'{error}. It was downloaded from {path_or_url}; delete it to download it again.'
            ) from error


def load_network_pkl(f: BinaryIO, force_fp16: bool = False, trust: bool = False) -> dict[str, Any]:
    """Read a network pickle, or a safetensors file of this project.

    Memory stays within 8 times the size of the file plus 400 MB, for any content.

    Args:
        f: Binary file, read from its current position to the end.
        force_fp16: Use half precision in the 4 highest resolutions (with activations clamped at 256), even if the file
            says otherwise.
        trust: Unpickle the ordinary way, which runs code in the file.

    Returns:
        Dict of `G`, `D`, `G_ema` (modules on the CPU, eval mode, without gradients; `G` and `D` are None if the file
        lacks them), `augment_pipe` (module or None), `training_set_kwargs` (dict or None), and the other keys of the
        file, unchanged.

    Raises:
        NetworkPickleError: It is not a network pickle, or contains something unknown. One sentence.
    """
    name = str(getattr(f, 'name', None) or 'the pickle')
    content = f.read()
    trust = trust and not safetensors_files.is_safetensors(content)
    data = (_load_trusted if trust else _load_safely)(content, name, force_fp16)
    if data.get('G_ema') is None:
        keys = ', '.join(excerpt(key, 30) for key in list(data)[:10])
        raise NetworkPickleError(f"{name} has no network 'G_ema' (it contains {keys})")
    data = {**dict.fromkeys(_EXPECTED_KEYS), **data}
    for key, value in data.items():
        if isinstance(value, torch.nn.Module):
            value.eval().requires_grad_(False)
        if value is not None and key in _CLASS_OF:
            is_network = isinstance(value, torch.nn.Module)
            if not is_network or not (trust or type(value).__name__ == _CLASS_OF[key]):
                raise NetworkPickleError(f'{name}: {key} is a {type(value).__name__}, not a {_CLASS_OF[key]}')
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


def _load_safely(content: bytes, name: str, force_fp16: bool) -> dict[str, Any]:
    allowance = construction.Allowance(len(content))
    if safetensors_files.is_safetensors(content):
        return safetensors_files.read(content, name, allowance, force_fp16)
    try:
        data = safe_pickle.loads(content, _READERS)
    except safe_pickle.RefusedGlobal as error:
        raise NetworkPickleError(f'{name} was not opened: {error}. Nothing in it was run. {TRUST_HINT}') from error
    except pickle.UnpicklingError as error:
        raise NetworkPickleError(f'{name} is not a network pickle: {error}') from error
    if conversion.is_tensorflow(data):
        return conversion.convert(data, name, force_fp16)

    rebuilt: dict[int, torch.nn.Module] = {}  # several keys may share an object
    result = _require_dict(data, name)
    for key, value in result.items():
        if isinstance(value, PersistentObject):
            if id(value) not in rebuilt:
                fp16 = force_fp16 and key in NETWORK_KEYS
                rebuilt[id(value)] = persistent.rebuild(value, f'{name}: {excerpt(key)}', allowance, fp16)
            result[key] = rebuilt[id(value)]
        else:
            _check_extent(value, f'{name}: {excerpt(key)}', allowance)
    return result


def _check_extent(value: Any, where: str, allowance: construction.Allowance) -> None:
    """Refuse plain data that is small in the file but practically endless, such as lists that contain themselves."""
    try:
        for item in walk(value, _MAX_OTHER_DEPTH):
            allowance.spend_item(where)
            if isinstance(item, PersistentObject):
                raise NetworkPickleError(f'{where} contains an object of class {excerpt(item.class_name)!r}')
    except TooDeep:
        raise NetworkPickleError(f'{where} cannot be used: it is too deeply nested') from None


def _load_trusted(content: bytes, name: str, force_fp16: bool) -> dict[str, Any]:
    try:
        data = pickle.loads(content)
    except Exception as error:  # code from the file can raise anything
        if isinstance(error, ImportError) and 'tflib' in (error.name or ''):
            return _load_safely(content, name, force_fp16)  # TensorFlow's classes cannot be run here
        raise NetworkPickleError(
            f'{name} cannot be unpickled, even when trusted ({type(error).__name__}: {excerpt(error)})'
        ) from error
    result = _require_dict(data, name)
    if force_fp16:
        for key in NETWORK_KEYS:
            if isinstance(result.get(key), torch.nn.Module):
                result[key] = _remake_with_fp16(result[key])
    return result


def _require_dict(data: Any, name: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not any(key in data for key in NETWORK_KEYS):
        raise NetworkPickleError(
            f'{name} is not a network pickle: it contains a {type(data).__name__} without G, D or G_ema'
        )
    return dict(data)


def _remake_with_fp16(old: Any) -> torch.nn.Module:
    """Rebuild a module of a trusted pickle, whose class is that in the file."""
    new = type(old)(*old.init_args, **construction.with_fp16(type(old).__name__, dict(old.init_kwargs)))
    new.load_state_dict(old.state_dict())
    return new
