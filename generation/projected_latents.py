"""The file `projected_w.npz`: latents found by projection, with the noise that belongs to them.

`w` is float32 [n, num_ws, w_dim], as in the published format (with n = 1). In addition, this project's projector stores
the noise that it has optimized: `noise/<buffer>` is float32 [n, H, W] for every noise buffer of the synthesis network,
such as `noise/b4.conv1.noise_const`. Without these arrays the network's own noise is used. Files of other programs are
read as well, see `generation.foreign_latents`.
"""

from __future__ import annotations

import contextlib
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file
from dnnlib.npz_input import DamagedNpz, Npz
from generation import foreign_latents

_NOISE_PREFIX = 'noise/'
_NOISE_BUFFER = 'noise_const'
_MAX_BYTES = 2**29  # of all arrays together, as stored: 14,000 latents of a network at 1024x1024


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
        if foreign_latents.is_foreign(path):
            return ProjectedLatents(_read_foreign(path, G))
    with _errors_named(path), Npz(path) as npz:
        shapes = _headers_of(npz)
        if len(shapes) == 1 and len(shapes['w'][0]) < 3:  # without noise, as another program may have written it
            return ProjectedLatents(_checked_foreign(npz.read('w', _MAX_BYTES), G))
        _check_latents(*shapes['w'], G)
        _check_noise(shapes, G)
        noise_names = [name for name in shapes if name != 'w']
        return ProjectedLatents(
            _finite_float32(npz, 'w'),
            {name.removeprefix(_NOISE_PREFIX): _finite_float32(npz, name) for name in noise_names},
        )


def check_readable(path: str | os.PathLike) -> None:
    """Make the checks of `read` that need no network."""
    with _errors_named(path):
        if foreign_latents.is_foreign(path):
            foreign_latents.read(path, _MAX_BYTES)
            return
    with _errors_named(path), Npz(path) as npz:
        _headers_of(npz)


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
    except DamagedNpz as error:
        raise InvalidArgument('projected_w', f'{os.fspath(path)} is not an npz file of plain arrays.') from error
    except (_FileError, foreign_latents.UnknownLatents) as error:
        raise InvalidArgument('projected_w', f'{os.fspath(path)} {error}') from error
    except OSError as error:
        raise InvalidArgument('projected_w', f'{os.fspath(path)}: {error.strerror or error}.') from error


def _headers_of(npz: Npz) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of `w` and of the arrays of noise; the file may contain others."""
    if 'w' not in npz.names:
        others = textwrap.shorten(', '.join(npz.names), width=100, placeholder=' …') or 'nothing'
        raise _FileError(f"has no array 'w' (it contains {others}); use a file written by projector.py.")
    headers = {name: npz.header(name) for name in npz.names if name == 'w' or name.startswith(_NOISE_PREFIX)}
    num_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
    if num_bytes > _MAX_BYTES:
        raise _FileError(
            f"has 'w' of shape {list(headers['w'][0])} and noise, {num_bytes:,} bytes in all, but at most "
            f'{_MAX_BYTES:,} are read: divide it into several files.'
        )
    return headers


def _check_latents(shape: tuple[int, ...], dtype: np.dtype, G: Any) -> None:
    if len(shape) != 3 or shape[1:] != (G.num_ws, G.w_dim) or shape[0] == 0 or dtype.kind not in 'fiu':
        raise _FileError(
            f"has 'w' of shape {list(shape)} ({dtype}), but this network needs numbers of shape "
            f'[n, {G.num_ws}, {G.w_dim}]: project with the same network.'
        )


def _check_noise(headers: dict[str, tuple[tuple[int, ...], np.dtype]], G: Any) -> None:
    known = noise_buffers(G)
    for key, (shape, dtype) in headers.items():
        name = key.removeprefix(_NOISE_PREFIX)
        if key == 'w':
            continue
        if name not in known:
            raise _FileError(
                f'has {key!r}, which is not a noise buffer of this network: project with the same network.'
            )
        expected = [headers['w'][0][0], *known[name].shape]
        if list(shape) != expected or dtype.kind not in 'fiu':
            raise _FileError(
                f'has {key!r} of shape {list(shape)} ({dtype}), but this network needs numbers of shape '
                f'{expected}: project with the same network.'
            )


def _read_foreign(path: str | os.PathLike, G: Any) -> np.ndarray:
    """Return latents that another program has written, float32 [n, num_ws, w_dim]."""
    return _checked_foreign(foreign_latents.read(path, _MAX_BYTES), G)


def _checked_foreign(array: np.ndarray, G: Any) -> np.ndarray:
    ws = foreign_latents.as_ws(array, G.num_ws, G.w_dim)
    if ws is None:
        raise _FileError(
            f'has latents of shape {list(array.shape)} ({array.dtype}), but this network needs numbers of shape '
            f'[n, {G.num_ws}, {G.w_dim}] or [n, {G.w_dim}]: project with the same network.'
        )
    if ws.nbytes > _MAX_BYTES:
        raise _FileError(f'has {len(ws):,} latents, which are too many: divide it into several files.')
    return _as_finite_float32(ws, 'w')


def _finite_float32(npz: Npz, key: str) -> np.ndarray:
    return _as_finite_float32(npz.read(key, _MAX_BYTES), key)


def _as_finite_float32(numbers: np.ndarray, key: str) -> np.ndarray:
    with np.errstate(over='ignore'):  # numbers beyond float32 become infinite
        numbers = numbers.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _FileError(f'has values in {key!r} that are not finite.')
    return numbers
