"""The file `projected_w.npz`: latents that were found for photographs, and the noise that was found with them.

`w` is float32 [n, num_ws, w_dim], as the published projector writes it (n = 1). Beside it this project's projector
keeps the noise that it has optimised: `noise/<buffer>` is float32 [n, H, W] for every noise buffer of the synthesis
network, such as `noise/b4.conv1.noise_const`. Without these the network's own noise is meant.
"""

import contextlib
import os
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import click
import numpy as np
import torch

from dnnlib.files import atomic_file

_NOISE_PREFIX = 'noise/'
_NOISE_BUFFER = 'noise_const'
_UNREADABLE = (
    ValueError, TypeError, AttributeError, KeyError, EOFError, NotImplementedError, RuntimeError, MemoryError,
    OSError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass
class Projections:
    """n projections.

    ws: float32 [n, num_ws, w_dim].
    noise: Name of a noise buffer of `G.synthesis` → float32 [n, H, W]; the network's own noise for those not in it.
    """

    ws: np.ndarray
    noise: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ws)


def write(path: str | os.PathLike, projections: Projections) -> None:
    """Write the npz file, whole or not at all."""
    arrays = {'w': projections.ws, **{_NOISE_PREFIX + name: array for name, array in projections.noise.items()}}
    with atomic_file(path) as f:
        np.savez(f, **{name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()})


def read(path: str | os.PathLike, G: torch.nn.Module, option: str = '--projected-w') -> Projections:
    """Read the npz file, which is to fit the generator `G`.

    Raises click.BadParameter, with a sentence that names `option`.
    """
    with _mistakes_named(path, option):
        arrays = _load_arrays(path)
        return Projections(_latents_in(arrays, G), _noise_in(arrays, G))


def check_readable(path: str | os.PathLike, option: str = '--projected-w') -> None:
    """The part of `read` that needs no network yet. Raises click.BadParameter."""
    with _mistakes_named(path, option):
        _load_arrays(path)


def join(parts: Sequence[Projections], G: torch.nn.Module) -> Projections:
    """One after another. Where only some parts have noise of their own, the others get that of the network."""
    own = noise_buffers(G)
    names = dict.fromkeys(name for part in parts for name in part.noise)
    noise = {
        name: np.concatenate([
            part.noise[name] if name in part.noise else np.stack([own[name].cpu().numpy()] * len(part))
            for part in parts
        ])
        for name in names
    }  # fmt: skip
    return Projections(np.concatenate([part.ws for part in parts]), noise)


def pick(projections: Projections, indices: Sequence[int]) -> Projections:
    """Those with the given indices, in their order; an index may come several times."""
    indices = list(indices)
    return Projections(projections.ws[indices], {name: array[indices] for name, array in projections.noise.items()})


@contextlib.contextmanager
def noise_of(G: torch.nn.Module, projections: Projections, index: int) -> Iterator[None]:
    """Inside, the noise buffers of `G.synthesis` are those of projection `index`; afterwards they are as before.

    Only `noise_mode='const'` looks at these buffers.
    """
    modules = {name: G.synthesis.get_submodule(name.rpartition('.')[0]) for name in projections.noise}
    own = {name: getattr(module, _NOISE_BUFFER) for name, module in modules.items()}
    try:
        for name, module in modules.items():
            noise = np.array(projections.noise[name][index])
            setattr(module, _NOISE_BUFFER, torch.from_numpy(noise).to(own[name]))
        yield
    finally:
        for name, module in modules.items():
            setattr(module, _NOISE_BUFFER, own[name])


def noise_buffers(G: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The noise buffers [H, W] of `G.synthesis` by their names, coarse to fine; none where it uses no noise."""
    return {name: buffer for name, buffer in G.synthesis.named_buffers() if name.rpartition('.')[2] == _NOISE_BUFFER}


# ------------------------------------------------------------------------------------------------ reading


class _Unusable(ValueError):
    """What is wrong with the file, to stand behind its name."""


@contextlib.contextmanager
def _mistakes_named(path: str | os.PathLike, option: str) -> Iterator[None]:
    """What is wrong with the file becomes a usage error that names file and option."""
    try:
        yield
    except _Unusable as error:
        raise click.BadParameter(f'{os.fspath(path)} {error}', param_hint=f"'{option}'") from error
    except OSError as error:
        raise click.BadParameter(f'{os.fspath(path)}: {error.strerror or error}.', param_hint=f"'{option}'") from error


def _load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays that count: `w` and those of the noise. Others may lie beside them."""
    with open(path, 'rb') as f:
        names, arrays = _read_arrays(f)
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise _Unusable('is not an npz file of plain arrays.')
    if 'w' not in arrays:
        others = textwrap.shorten(', '.join(names), width=100, placeholder=' …') or 'nothing'
        raise _Unusable(f"has no array 'w' (it has: {others}); projector.py writes one.")
    return arrays


def _read_arrays(f: BinaryIO) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of all arrays in the file, and those that count."""
    try:
        with np.load(f, allow_pickle=False) as content:
            wanted = [name for name in content.files if name == 'w' or name.startswith(_NOISE_PREFIX)]
            return content.files, {name: content[name] for name in wanted}
    except _UNREADABLE as error:
        raise _Unusable('is not an npz file of plain arrays.') from error


def _latents_in(arrays: dict[str, np.ndarray], G: torch.nn.Module) -> np.ndarray:
    ws = arrays['w']
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim) or len(ws) == 0 or ws.dtype.kind not in 'fiu':
        raise _Unusable(
            f"has 'w' of shape {list(ws.shape)} ({ws.dtype}); this network takes numbers of shape "
            f'[n, {G.num_ws}, {G.w_dim}]: project with the same network.'
        )
    return _finite('w', ws)


def _noise_in(arrays: dict[str, np.ndarray], G: torch.nn.Module) -> dict[str, np.ndarray]:
    known = noise_buffers(G)
    noise = {}
    for key, array in arrays.items():
        name = key.removeprefix(_NOISE_PREFIX)
        if key == 'w':
            continue
        if name not in known:
            raise _Unusable(f'has {key!r}, but the network has no such noise: project with the same network.')
        wanted = [len(arrays['w']), *known[name].shape]
        if list(array.shape) != wanted or array.dtype.kind not in 'fiu':
            raise _Unusable(
                f'has {key!r} of shape {list(array.shape)} ({array.dtype}); this network takes numbers of shape '
                f'{wanted} there: project with the same network.'
            )
        noise[name] = _finite(key, array)
    return noise


def _finite(key: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):  # Too large a number becomes infinite here.
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _Unusable(f'has values in {key!r} that are not finite numbers.')
    return numbers
