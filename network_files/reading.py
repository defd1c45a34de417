"""Open network files: pickles of PyTorch and TensorFlow, and safetensors, without executing anything in them.

`load_network_pkl` reads what `train.py` and the published PyTorch code of StyleGAN2-ADA and StyleGAN3 write (a dict of
`G`, `D`, `G_ema`, `augment_pipe` and `training_set_kwargs`), the TensorFlow pickles of StyleGAN2 and StyleGAN2-ADA, and
the safetensors files of this project. It also reads files of `torch.save` that contain a whole generator, as those of
PTI, or networks in the layout of `network_files.rosinality`. The networks are rebuilt from the arguments of their
constructors with the classes of this project, then filled with the stored values, each of which must match a parameter
or buffer by name and shape. Objects of other classes under other keys are left out. Only `trust=True` runs the source
that a pickle carries, as `pickle.load` does.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection
from typing import Any, BinaryIO

import torch

from dnnlib.text import excerpt
from dnnlib.util import is_url, open_url
from network_files import (
    construction,
    generations,
    hub,
    left_out,
    other_formats,
    persistent,
    rosinality,
    safe_pickle,
    safetensors_files,
    tensor_archives,
)
from network_files.errors import TRUST_HINT, NetworkPickleError, UnsupportedNetworkError
from network_files.safe_pickle import ForeignObject, Global, PersistentObject
from network_files.tensorflow import conversion, sources
from torch_utils import misc

NETWORK_KEYS = construction.NETWORK_KEYS
CLASS_OF = {'G': 'Generator', 'D': 'Discriminator', 'G_ema': 'Generator', 'augment_pipe': 'AugmentPipe'}
_EXPECTED_KEYS = (*CLASS_OF, 'training_set_kwargs')
_OBJECTS = (PersistentObject, ForeignObject, Global)
_READERS = {**sources.READERS, **persistent.READERS}


def open_network(
    path_or_url: str, force_fp16: bool = False, trust: bool = False, keys: Collection[str] | None = None
) -> dict[str, Any]:
    """Read a network file or URL with `load_network_pkl`.

    An address `hf://owner/name[/file][@revision]` is a network on a hub, which is never trusted: see
    `network_files.hub`.

    Raises:
        OSError: It cannot be read, or downloaded.
        NetworkPickleError: As `load_network_pkl`.
    """
    is_on_hub = hub.is_address(path_or_url)
    if is_on_hub and trust:
        raise NetworkPickleError(
            f'{path_or_url} was not opened: code in files from a hub is never run. Download the file, and trust that '
            'one.'
        )
    with hub.open_file(path_or_url) if is_on_hub else open_url(path_or_url) as f:
        try:
            return load_network_pkl(f, force_fp16=force_fp16, trust=trust, keys=keys)
        except NetworkPickleError as error:
            if not is_url(path_or_url):
                raise
            raise NetworkPickleError(
                f'{error}. It was downloaded from {path_or_url}; delete it to download it again.'
            ) from error


def load_network_pkl(
    f: BinaryIO, force_fp16: bool = False, trust: bool = False, keys: Collection[str] | None = None
) -> dict[str, Any]:
    """Read a network pickle, or a safetensors file of this project.

    Memory stays within 8 times the size of the file plus 400 MB, for any content. A warning names objects of foreign
    classes, such as the contrastive heads of InsGen, which are left out.

    Args:
        f: Binary file, read from its current position to the end.
        force_fp16: Use half precision in the 4 highest resolutions (with activations clamped at 256), even if the file
            says otherwise.
        trust: Unpickle the ordinary way, which runs code in the file.
        keys: The keys that the caller needs; the others are ignored, whatever they contain. None: all.

    Returns:
        Dict of `G`, `D`, `G_ema` (modules on the CPU, eval mode, without gradients; `G` and `D` are None if the file
        lacks them, and the same module as `G_ema` if it stands in for them), `augment_pipe` (module or None),
        `training_set_kwargs` (dict or None), and the other keys of the file, unchanged.

    Raises:
        NetworkPickleError: It is not a network pickle, or contains something unknown. One sentence.
    """
    name = str(getattr(f, 'name', None) or 'the pickle')
    content = f.read()
    kind = other_formats.recognize(content)
    saved_by_torch = _saved_by_torch(content) if kind == other_formats.TORCH_SAVE else None
    if kind is not None and saved_by_torch is None:
        raise NetworkPickleError(
            f'{name} is not a network pickle but {kind}: use the network pickle (*.pkl) of the same training'
        )
    trust = trust and saved_by_torch is None and not safetensors_files.is_safetensors(content)
    if saved_by_torch is not None:
        data = _rebuild_saved(saved_by_torch, len(content), name, force_fp16, keys)
    else:
        data = (_load_trusted if trust else _load_safely)(content, name, force_fp16, keys)
    if data.get('G_ema') is None:
        listed = ', '.join(excerpt(key, 30) for key in list(data)[:10])
        raise NetworkPickleError(f"{name} has no network 'G_ema' (it contains {listed})")
    data = {**dict.fromkeys(_EXPECTED_KEYS), **data}
    for key, value in data.items():
        if isinstance(value, torch.nn.Module):
            value.eval().requires_grad_(False)
        if key == 'D' and value is data['G_ema']:
            continue  # it stands in for D, since published programs open no file without one
        if value is not None and key in CLASS_OF and not (trust and key == 'augment_pipe'):
            is_network = isinstance(value, torch.nn.Module)
            if not is_network or not (trust or type(value).__name__ == CLASS_OF[key]):
                raise NetworkPickleError(
                    f'{name}: {key} is {other_formats.kind_of_value(value)}, not a {CLASS_OF[key]}'
                )
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Files of torch.save


def _saved_by_torch(content: bytes) -> dict[str, Any] | None:
    """Return the content of a file of `torch.save`, or None if it has no networks or is damaged."""
    try:
        value = tensor_archives.loads(content, safe_pickle.READERS | persistent.READERS, keep_foreign=True)
    except tensor_archives.DamagedArchive:
        return None
    if isinstance(value, PersistentObject) and value.class_name == 'Generator':
        return {'G_ema': value}
    is_known = isinstance(value, dict) and (
        rosinality.is_layout(value) or any(isinstance(value.get(key), PersistentObject) for key in NETWORK_KEYS)
    )
    return value if is_known else None


def _rebuild_saved(
    content: dict[str, Any], size: int, name: str, force_fp16: bool, keys: Collection[str] | None
) -> dict[str, Any]:
    """Return networks instead of the description of them in a file of `torch.save` of `size` bytes."""
    allowance = construction.Allowance(size)
    if not rosinality.is_layout(content):
        return _rebuild_all(_only(keys, content), name, allowance, force_fp16)
    data = _only(keys, rosinality.from_layout(content, name, allowance))
    if force_fp16:
        data |= {key: _remake_with_fp16(data[key]) for key in NETWORK_KEYS if key in data}
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


def _load_safely(content: bytes, name: str, force_fp16: bool, keys: Collection[str] | None) -> dict[str, Any]:
    allowance = construction.Allowance(len(content))
    if safetensors_files.is_safetensors(content):
        return _only(keys, safetensors_files.read(content, name, allowance, force_fp16))
    try:
        data = safe_pickle.loads(content, _READERS, keep_foreign=True)
    except safe_pickle.RefusedGlobal as error:
        raise NetworkPickleError(f'{name} was not opened: {error}. Nothing in it was run. {TRUST_HINT}') from error
    except pickle.UnpicklingError as error:
        raise NetworkPickleError(f'{name} is not a network pickle: {error}') from error
    if conversion.is_tensorflow(data):
        return _only(keys, conversion.convert(data, name, force_fp16))
    try:
        return _rebuild_all(_only(keys, _require_dict(data, name)), name, allowance, force_fp16)
    except UnsupportedNetworkError as error:
        raise NetworkPickleError(f'{error}. {TRUST_HINT}') from error


def _rebuild_all(
    data: dict[str, Any], name: str, allowance: construction.Allowance, force_fp16: bool
) -> dict[str, Any]:
    """Return the content of a pickle with modules instead of `PersistentObject`, and without foreign objects."""
    rebuilt: dict[int, torch.nn.Module] = {}  # several keys may share an object
    result: dict[str, Any] = {}
    unsupported: dict[str, str] = {}
    for key, value in data.items():
        where = f'{name}: {excerpt(key)}'
        if key in CLASS_OF and isinstance(value, _OBJECTS):
            try:
                if id(value) not in rebuilt:
                    fp16 = force_fp16 and key in NETWORK_KEYS
                    rebuilt[id(value)] = persistent.rebuild(value, where, allowance, fp16)
                result[key] = rebuilt[id(value)]
            except UnsupportedNetworkError as error:
                if key in NETWORK_KEYS:
                    raise
                unsupported[key] = error.reason
        elif key in NETWORK_KEYS:
            result[key] = value  # None, or something that the caller refuses
        elif (foreign := left_out.foreign_part(value, where, allowance)) is not None:
            unsupported[key] = f'{foreign}, which is unknown here'
        else:
            result[key] = value
    left_out.warn(name, unsupported)
    return result


def _only(keys: Collection[str] | None, data: dict[str, Any]) -> dict[str, Any]:
    return data if keys is None else {key: value for key, value in data.items() if key in keys}


def _load_trusted(content: bytes, name: str, force_fp16: bool, keys: Collection[str] | None) -> dict[str, Any]:
    try:
        data = pickle.loads(content)
    except Exception as error:  # code from the file can raise anything
        if isinstance(error, ImportError) and 'tflib' in (error.name or ''):
            return _load_safely(content, name, force_fp16, keys)  # TensorFlow's classes cannot be run here
        raise NetworkPickleError(
            f'{name} cannot be unpickled, even when trusted ({type(error).__name__}: {excerpt(error)})'
        ) from error
    result = _only(keys, _require_dict(data, name))
    if force_fp16:
        for key in NETWORK_KEYS:
            if isinstance(result.get(key), torch.nn.Module):
                result[key] = _remake_with_fp16(result[key])
    return result


def _require_dict(data: Any, name: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not any(key in data for key in NETWORK_KEYS):
        raise NetworkPickleError(
            f'{name} is not a network pickle: it contains {other_formats.kind_of_value(data)} without G, D or G_ema'
        )
    return dict(data)


def _remake_with_fp16(old: Any) -> torch.nn.Module:
    """Rebuild a module of a trusted pickle, whose class is that in the file."""
    kwargs = generations.with_fp16(type(old), old.init_kwargs)
    new = type(old)(*old.init_args, **kwargs)
    misc.copy_params_and_buffers(old, new, require_all=True)
    return new
