"""Latents that other programs have projected: arrays of w or w+ in .npy, .npz and .pt files.

Such files have no common format. What counts is their content, not their extension:

* .npy: an array;
* .npz: an array with one of `NAMES`, or the only array of numbers;
* .pt of `torch.save`: a tensor, a list of tensors, or a dict with one of `NAMES`, or with such a dict for each picture,
  as the projector of stylegan2-pytorch writes it.

An array is [n, num_ws, w_dim] (w+); [n, 1, w_dim], [n, w_dim] or [w_dim] (w); or [num_ws, w_dim] (w+ of one picture,
even where it could be w of num_ws pictures).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dnnlib.files import open_regular, read_file
from dnnlib.npz_input import DamagedNpz, Npz, is_npy, read_npy
from network_files import tensor_archives
from network_files.other_formats import TORCH_SAVE, recognize

NAMES = ('w', 'ws', 'w_plus', 'wp', 'latent', 'latents', 'latent_code', 'latent_codes', 'projected_w', 'arr_0')
"""Names of arrays of latents, in order of preference."""

_MAX_DEPTH = 3


class UnknownLatents(ValueError):
    """A file without latents; the text completes 'NAME ...'."""


def is_foreign(path: str | os.PathLike) -> bool:
    """Return whether a file is something else than an npz file with an array `w`.

    Raises:
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        start = file.read(16)
    if is_npy(start) or not start.startswith(b'PK'):
        return True
    try:
        with Npz(path) as npz:
            return 'w' not in npz.names
    except DamagedNpz:
        return False  # its reader says so


def read(path: str | os.PathLike, max_bytes: int) -> np.ndarray:
    """Read the latents in a file, in the shape that they have there.

    Args:
        path: File for which `is_foreign` is true.
        max_bytes: Largest size that is read.

    Raises:
        UnknownLatents: It contains no latents, or too many.
        DamagedNpz: It is a damaged npz file.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        start, size = file.read(16), os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise UnknownLatents(f'has {size:,} bytes, but at most {max_bytes:,} are read: divide it into several files.')
    if is_npy(start):
        try:
            return read_npy(path, max_bytes)
        except DamagedNpz as error:
            raise UnknownLatents(f'is not an npy file of plain numbers ({error}).') from error
    content = read_file(path, max_bytes)
    if recognize(content) == TORCH_SAVE:
        return _read_torch(content)
    if start.startswith(b'PK'):
        return _read_npz(path, max_bytes)
    raise UnknownLatents('is not an npz file of plain arrays, and no .npy or .pt file of latents either.')


def _read_npz(path: str | os.PathLike, max_bytes: int) -> np.ndarray:
    with Npz(path) as npz:
        named = [name for name in NAMES if name in npz.names]
        chosen = named[0] if named else npz.names[0] if len(npz.names) == 1 else None
        if chosen is None:
            raise UnknownLatents(f"has no array 'w' (it contains {_listed(npz.names)}); use a file of projector.py.")
        return npz.read(chosen, max_bytes)


def _read_torch(content: bytes) -> np.ndarray:
    try:
        value = tensor_archives.loads(content, keep_foreign=True)
    except tensor_archives.DamagedArchive as error:
        raise UnknownLatents(f'cannot be read without running code in it, or is damaged ({error}).') from error
    tensors = list(_tensors_in(value, _MAX_DEPTH))
    if not tensors or len({tensor.shape for tensor in tensors}) > 1:
        kind = _listed(map(str, value)) if isinstance(value, Mapping) else f'a {type(value).__name__}'
        raise UnknownLatents(f'has no latents of one shape (it contains {kind}): use a file of w or w+.')
    if len(tensors) == 1:
        return tensors[0].float().numpy()
    together = torch.stack(tensors) if tensors[0].ndim < 3 else torch.cat(tensors)
    return together.float().numpy()


def _tensors_in(value: Any, depth: int) -> list[torch.Tensor]:
    """Return the tensors of latents in the content of a file of `torch.save`."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if depth == 0:
        return []
    if isinstance(value, Mapping):
        named = [name for name in NAMES if name in value]
        parts: list[Any] = (
            [value[named[0]]] if named else [part for part in value.values() if isinstance(part, (dict, list))]
        )
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    return [tensor for part in parts[:10_000] for tensor in _tensors_in(part, depth - 1)]


def _listed(names: Any) -> str:
    names = list(names)
    return ', '.join(name[:30] for name in names[:3]) + (' …' if len(names) > 3 else '') or 'nothing'


def as_ws(array: np.ndarray, num_ws: int, w_dim: int) -> np.ndarray | None:
    """Return latents as [n, num_ws, w_dim], or None if the shape is none of those at the top of this file.

    Args:
        array: Numbers.
        num_ws: Number of w vectors of the generator.
        w_dim: Size of w.
    """
    if array.dtype.kind not in 'fiu' or array.ndim not in (1, 2, 3) or array.shape[-1] != w_dim or not array.size:
        return None
    if array.shape == (num_ws, w_dim):
        array = array[None]
    elif array.ndim < 3:
        array = array.reshape(-1, 1, w_dim)
    if array.shape[1] not in (1, num_ws):
        return None
    return np.broadcast_to(array, [len(array), num_ws, w_dim])
