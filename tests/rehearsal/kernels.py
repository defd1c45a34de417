"""The CUDA kernels of this project on a CPU: compiled by the C++ compiler, run block by block (`cuda_on_cpu.cpp`)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import tempfile
from pathlib import Path

from torch_utils.ops import cuda_launch
from torch_utils.ops.build import cache_folder

OPS = Path(cuda_launch.__file__).parent
HARNESS = Path(__file__).with_name('cuda_on_cpu.cpp')
FLAGS = ('-std=c++17', '-O1', '-w', '-shared', '-fPIC')


@functools.cache
def compiled(kernel: cuda_launch.Kernel) -> ctypes._CFuncPtr:
    """Return the function (blocks, threads per block, struct) of a kernel, which is compiled once per machine."""
    key = hashlib.sha256(kernel.source.encode() + _sources())
    folder = cache_folder() / 'ada_gan_rehearsal'
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f'{kernel.name}-{key.hexdigest()[:24]}.so'
    if not library.exists():
        compile_library(library, kernel)
    run = ctypes.CDLL(str(library)).run
    run.argtypes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_char_p]
    return run


@functools.cache
def _sources() -> bytes:
    files = sorted(file for file in OPS.iterdir() if file.suffix in ('.cu', '.cuh', '.h'))
    return b''.join(hashlib.sha256(file.read_bytes()).digest() for file in (*files, HARNESS))


def compile_library(library: Path, kernel: cuda_launch.Kernel) -> None:
    """Compile a kernel with the harness; several processes may do so at the same time."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        main, result = Path(scratch, 'kernel.h'), Path(scratch, 'kernel.so')
        main.write_text(kernel.source)
        definitions = (f'-DKERNEL_SOURCE="{main}"', f'-DKERNEL={kernel.name}', f'-I{OPS}')
        subprocess.run(['g++', *FLAGS, *definitions, HARNESS, '-o', result], check=True)
        result.replace(library)
