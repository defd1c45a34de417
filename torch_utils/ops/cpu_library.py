"""The library of the CPU kernels: compiled from `cpu_kernels.cpp` on first use, and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

from torch_utils.ops import build
from torch_utils.ops.arguments import Finish

FOLDER = Path(__file__).parent
MAIN = 'cpu_kernels.cpp'
SOURCES = (
    MAIN,
    'cpu_bias_act.h',
    'cpu_filtered_lrelu.h',
    'cpu_finish.h',
    'cpu_layouts.h',
    'cpu_matrix.h',
    'cpu_memory.h',
    'cpu_resample.h',
    'cpu_schemes.h',
    'cpu_threads.h',
    'cpu_vectors.h',
    'cpu_winograd.h',
    'elementwise.h',
)


@functools.cache
def library_path() -> Path:
    """Return the path of the library, which is compiled if needed.

    Raises:
        build.BuildError: It cannot be compiled.
    """
    return build.shared_library('cpu', [FOLDER / name for name in SOURCES], FOLDER / MAIN)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library. Raises `build.BuildError` if it cannot be compiled or loaded."""
    path = library_path()
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise build.BuildError(
            f'{path} cannot be loaded ({error}); remove it, or set CXX to another compiler'
        ) from error
    pointer, number, size, factor = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
    loaded.ada_bias_act.argtypes = [number, *[pointer] * 6, *[size] * 3, number, number, *[factor] * 3, number]
    loaded.ada_upfirdn2d.argtypes = [number, *[pointer] * 5, number, number, number, factor, pointer, number]
    loaded.ada_filtered_lrelu.argtypes = [number, *[pointer] * 7, *[factor] * 4, number]
    loaded.ada_conv3x3.argtypes = [number, *[pointer] * 7, number]
    loaded.ada_conv3x3_weight_gradient.argtypes = [number, *[pointer] * 5, number]
    loaded.ada_energy.argtypes = [pointer, pointer, size, number]
    loaded.ada_layouts.argtypes = [number, *[pointer] * 5, number]
    return loaded


def check(status: int) -> None:
    """Raise MemoryError if a function of the library has failed."""
    if status != 0:
        raise MemoryError('the CPU kernels could not allocate memory for their buffers')


class _Finish(ctypes.Structure):
    """`struct Finish` of cpu_finish.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ('scale', 'noise', 'bias')),
        *((name, ctypes.c_int64) for name in ('channels', 'noise_step')),
        *((name, ctypes.c_float) for name in ('slope', 'gain', 'clamp')),
    )


def pointer_to(finish: Finish | None) -> Any:
    """Return a pointer to what `cpu_finish.h` expects, or None. The tensors must outlive it."""
    if finish is None:
        return None
    scale, noise, bias, (_dim, act, alpha, gain, clamp) = finish
    return ctypes.byref(
        _Finish(
            scale=scale.data_ptr(),
            noise=None if noise is None else noise.data_ptr(),
            bias=bias.data_ptr(),
            channels=scale.shape[1],
            noise_step=0 if noise is None or noise.shape[0] == 1 else noise[0].numel(),
            slope={'linear': 1.0, 'lrelu': alpha}[act],
            gain=gain,
            clamp=math.inf if clamp is None else clamp,
        )
    )
