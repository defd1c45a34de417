"""The file `projected_w.npz`: latents found by projection, with the noise that belongs to them.

`w` is float32 [n, num_ws, w_dim], as in the published format (with n = 1). In addition, this project's projector stores
the noise that it has optimized: `noise/<buffer>` is float32 [n, H, W] for every noise buffer of the synthesis network,
such as `noise/b4.conv1.noise_const`. Without these arrays the network's own noise is used.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file, open_regular

_NOISE_PREFIX = 'noise/'
_NOISE_BUFFER = 'noise_const'
# What np.load raises for damaged files.
_READ_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass
class ProjectedLatents:
    """Latents of n images.

    Args:
        ws: float32 [n, num_ws, w_dim].
        noise: float32 [n, H, W] by the name of a noise buffer of `G.synthesis`. Other buffers keep the network's own
            noise.
    """

    ws: np.ndarray
    noise: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ws)


def write(path: str | os.PathLike, projected: ProjectedLatents) -> None:
    """Write the npz file, complete or not at all."""
    arrays: dict[str, Any] = {'w': projected.ws}
    arrays.update({_NOISE_PREFIX + name: array for name, array in projected.noise.items()})
    with atomic_file(path) as f:
        content: dict[str, Any] = {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}
        np.savez(f, **content)


def read(path: str | os.PathLike, G: Any) -> ProjectedLatents:
    """Read an npz file for the generator `G`.

    Raises:
        InvalidArgument: Argument 'projected_w': the file cannot be read or does not match the network.
    """
    with _errors_named(path):
        arrays = _load_arrays(path)
        return ProjectedLatents(_latents_in(arrays, G), _noise_in(arrays, G))


def check_readable(path: str | os.PathLike) -> None:
    """Make the checks of `read` that need no network."""
    with _errors_named(path):
        _load_arrays(path)


def join(parts: Sequence[ProjectedLatents], G: Any) -> ProjectedLatents:
    """Concatenate latents. If only some of them have noise, the others get that of the network."""
    own = noise_buffers(G)
    names = dict.fromkeys(name for part in parts for name in part.noise)

    def noise_of(part: ProjectedLatents, name: str) -> np.ndarray:
        return part.noise[name] if name in part.noise else np.stack([own[name].cpu().numpy()] * len(part))

    noise = {name: np.concatenate([noise_of(part, name) for part in parts]) for name in names}
    return ProjectedLatents(np.concatenate([part.ws for part in parts]), noise)


def select(projected: ProjectedLatents, indices: Sequence[int]) -> ProjectedLatents:
    """Return the latents with the given indices, in this order; an index may occur several times."""
    indices = list(indices)
    return ProjectedLatents(projected.ws[indices], {name: array[indices] for name, array in projected.noise.items()})


@contextlib.contextmanager
def use_projected_noise(G: Any, projected: ProjectedLatents, index: int) -> Iterator[None]:
    """Replace the noise buffers of `G.synthesis` by those of one projected latent within this context.

    Only `noise_mode='const'` uses these buffers.
    """
    modules = {name: G.synthesis.get_submodule(name.rpartition('.')[0]) for name in projected.noise}
    own = {name: getattr(module, _NOISE_BUFFER) for name, module in modules.items()}
    try:
        for name, module in modules.items():
            noise = np.array(projected.noise[name][index])
            setattr(module, _NOISE_BUFFER, torch.from_numpy(noise).to(own[name]))
        yield
    finally:
        for name, module in modules.items():
            setattr(module, _NOISE_BUFFER, own[name])


def noise_buffers(G: Any) -> dict[str, torch.Tensor]:
    """Return the noise buffers [H, W] of `G.synthesis` by name, coarse to fine; empty if it uses no noise."""
    return {name: buffer for name, buffer in G.synthesis.named_buffers() if name.rpartition('.')[2] == _NOISE_BUFFER}


# ---------------------------------------------------------------------------------------------------------------------
# Reading


class _FileError(ValueError):
    """An unusable file; the text completes 'NAME ...'."""


@contextlib.contextmanager
def _errors_named(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except _FileError as error:
        raise InvalidArgument('projected_w', f'{os.fspath(path)} {error}') from error
    except OSError as error:
        raise InvalidArgument('projected_w', f'{os.fspath(path)}: {error.strerror or error}.') from error


def _load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Load `w` and the arrays of noise; the file may contain others."""
    with open_regular(path) as f:
        names, arrays = _read_arrays(f)
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise _FileError('is not an npz file of plain arrays.')
    if 'w' not in arrays:
        others = textwrap.shorten(', '.join(names), width=100, placeholder=' …') or 'nothing'
        raise _FileError(f"has no array 'w' (it contains {others}); use a file written by projector.py.")
    return arrays


def _read_arrays(f: BinaryIO) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of all arrays in the file, and the arrays that are needed."""
    try:
        with np.load(f, allow_pickle=False) as content:
            needed = [name for name in content.files if name == 'w' or name.startswith(_NOISE_PREFIX)]
            return content.files, {name: content[name] for name in needed}
    except _READ_ERRORS as error:
        raise _FileError('is not an npz file of plain arrays.') from error


def _latents_in(arrays: dict[str, np.ndarray], G: Any) -> np.ndarray:
    ws = arrays['w']
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim) or len(ws) == 0 or ws.dtype.kind not in 'fiu':
        raise _FileError(
            f"has 'w' of shape {list(ws.shape)} ({ws.dtype}), but this network needs numbers of shape "
            f'[n, {G.num_ws}, {G.w_dim}]: project with the same network.'
        )
    return _as_finite_float32('w', ws)


def _noise_in(arrays: dict[str, np.ndarray], G: Any) -> dict[str, np.ndarray]:
    known = noise_buffers(G)
    noise = {}
    for key, array in arrays.items():
        name = key.removeprefix(_NOISE_PREFIX)
        if key == 'w':
            continue
        if name not in known:
            raise _FileError(
                f'has {key!r}, which is not a noise buffer of this network: project with the same network.'
            )
        expected = [len(arrays['w']), *known[name].shape]
        if list(array.shape) != expected or array.dtype.kind not in 'fiu':
            raise _FileError(
                f'has {key!r} of shape {list(array.shape)} ({array.dtype}), but this network needs numbers of shape '
                f'{expected}: project with the same network.'
            )
        noise[name] = _as_finite_float32(key, array)
    return noise


def _as_finite_float32(key: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):  # numbers beyond float32 become infinite
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _FileError(f'has values in {key!r} that are not finite.')
    return numbers
