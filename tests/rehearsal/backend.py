"""The compiled `device.cpp`, which has to be loaded before PyTorch is imported, and its counters."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torch_utils.ops.build import cache_folder  # does not import PyTorch

SOURCE = Path(__file__).with_name('device.cpp')
TORCH = Path(importlib.util.find_spec('torch').origin).parent
FLAGS = ('-std=c++20', '-O1', '-w', '-shared', '-fPIC')
# In the order of `enum Counter` in device.cpp.
COUNTERS = (
    'launches',
    'synchronizations',
    'pageable copies',
    'pinned copies',
    'copies to host',
    'allocations',
    'float64',
)


def library_path() -> Path:
    """Return the path of the compiled `device.cpp`, which is compiled once per machine and version of PyTorch."""
    key = hashlib.sha256(SOURCE.read_bytes() + (TORCH / 'version.py').read_bytes() + repr(FLAGS).encode()).hexdigest()
    folder = cache_folder() / 'ada_gan_rehearsal'
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f'device-{key[:24]}.so'
    if not library.exists():
        includes = [f'-I{TORCH / "include"}', f'-I{TORCH / "include/torch/csrc/api/include"}']
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            result = Path(scratch, 'device.so')
            links = [f'-L{TORCH / "lib"}', '-ltorch_cpu', '-lc10']
            subprocess.run(['g++', *FLAGS, *includes, SOURCE, '-o', result, *links], check=True)
            result.replace(library)
    return library


@functools.cache
def backend() -> ctypes.CDLL:
    if 'torch' in sys.modules:
        raise ImportError('The rehearsal device must be loaded before PyTorch, which asks for its backend once.')
    for name in ('c10', 'torch_cpu'):
        ctypes.CDLL(str(TORCH / 'lib' / f'lib{name}.so'), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(library_path()))
    for name in ('count', 'used', 'peak', 'graph_size'):
        getattr(library, f'rehearsal_{name}').restype = ctypes.c_longlong
    library.rehearsal_graph_size.argtypes = library.rehearsal_graph_free.argtypes = [ctypes.c_void_p]
    library.rehearsal_replay.argtypes = [ctypes.c_void_p]
    library.rehearsal_capture_begin.restype = ctypes.c_void_p
    library.rehearsal_start.argtypes = [ctypes.c_int, ctypes.c_longlong, ctypes.c_int]
    library.rehearsal_launch.argtypes = [
        ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_char_p, ctypes.c_int
    ]  # fmt: skip
    return library


def counts() -> Counter[str]:
    """Return how often what is expensive on a GPU has happened in this process: see COUNTERS."""
    return Counter({name: backend().rehearsal_count(index) for index, name in enumerate(COUNTERS)})


def synchronizations() -> Counter[str]:
    """Return how often each operator has waited for the GPU."""
    text = ctypes.create_string_buffer(65536)
    backend().rehearsal_sync_names(text, len(text))
    pairs = (line.rsplit('\t', 1) for line in text.value.decode().splitlines())
    return Counter({name: int(number) for name, number in pairs})


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Within this context, count; the counter that it gives is complete at the end."""
    before, result = counts() + synchronizations(), Counter()
    yield result
    result.update(counts() + synchronizations() - before)
