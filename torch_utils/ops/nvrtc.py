"""Compiling CUDA sources at run time, with nothing but a shared library of CUDA: NVRTC.

The library is called through its plain C interface by ctypes. That is a dozen functions that have stayed the same since
CUDA 11, and PyTorch's CUDA wheels bring the library along, of their own version, so nothing needs to be installed where
PyTorch runs on a GPU. (`cuda-core` and `cuda-bindings` would do the same for two more packages.) Where PyTorch was
built without it, `pip install nvidia-cuda-nvrtc` gives it. No GPU is needed to compile.

Binaries are kept on disk. Each is named by everything it depends on, is written under a name of its own and moved into
place, and carries its checksum: processes need no lock, and neither a killed one nor a full disk leaves anything that
is taken for a binary.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dnnlib.files import atomic_file
from torch_utils.ops.build import BuildError, writable_folder

INSTALL = 'pip install nvidia-cuda-nvrtc'
CACHE_FORMAT = b'ADA1'  # The first bytes of a file, before the checksum of the rest.


class CompilerMissing(RuntimeError):
    """NVRTC is not there or cannot be used; the text says what to do."""


class CompilationFailed(RuntimeError):
    """NVRTC rejected a source; the text holds its messages."""


class Binary(NamedTuple):
    image: bytes  # what the driver loads
    log: str  # of the compiler and the assembler; empty where the binary was on disk


# ---------------------------------------------------------------------------------------------------------------------
# The library


class Compiler:
    """NVRTC: its `path`, `version` (major, minor) and the `architectures` that it compiles for (80, 90 ...)."""

    def __init__(self, path: str):
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            self.version = self._read_version()
            self.architectures = self._read_architectures()
        except (OSError, AttributeError) as error:
            raise CompilerMissing(f'{path} is no usable NVRTC: {error}') from error

    def compile(self, name: str, source: str, headers: Mapping[str, str], options: Sequence[str]) -> Binary:
        """Machine code for the architecture among the options (`sm_90`), or PTX where it is virtual (`compute_90`)."""
        program = ctypes.c_void_p()
        texts = [text.encode() for text in headers.values()]
        names = [header.encode() for header in headers]
        flags = [option.encode() for option in options]
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), len(headers), _strings(texts), _strings(names)
            )
        )
        try:
            status = self._library.nvrtcCompileProgram(program, len(flags), _strings(flags))
            log = self._read(program, 'ProgramLog').rstrip(b'\0').decode(errors='replace').strip()
            if status != 0:
                raise CompilationFailed(f'{name} with {" ".join(options)}: {log or self._message(status)}')
            virtual = any('=compute_' in option for option in options)
            return Binary(self._read(program, 'PTX' if virtual else 'CUBIN'), log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read_version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    def _read_architectures(self) -> tuple[int, ...]:
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(numbers))
        return tuple(sorted(numbers))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f'nvrtcGet{what}Size')(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f'nvrtcGet{what}')(program, buffer))
        return buffer.raw

    def _message(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(status).decode()

    def _check(self, status: int) -> None:
        if status != 0:
            raise CompilerMissing(f'{self.path} (NVRTC) failed: {self._message(status)}')


def _strings(values: Sequence[bytes]) -> ctypes.Array:
    return (ctypes.c_char_p * len(values))(*values)


@functools.lru_cache(maxsize=1)
def compiler() -> Compiler:
    """The NVRTC that fits PyTorch best; CompilerMissing where there is none. What is found is kept."""
    failures = []
    for path in candidates():
        try:
            return Compiler(path)
        except CompilerMissing as error:
            failures.append(str(error))
    raise CompilerMissing(failures[0] if failures else f'the CUDA compiler library NVRTC is missing; {INSTALL}')


def candidates() -> Iterator[str]:
    """Paths where NVRTC may be, best first: wheels, those of PyTorch's own CUDA version before others; the toolkit."""
    major = (torch.version.cuda or '').split('.')[0]
    found = [
        str(file)
        for folder in _library_folders()
        for pattern in ('libnvrtc[.-]*', 'nvrtc64_*.dll')
        for file in sorted(folder.glob(pattern))
        if 'builtins' not in file.name and '.alt.' not in file.name
    ]
    # A newer compiler's code needs a newer driver than the one that PyTorch is content with.
    yield from sorted(found, key=lambda path: not major or major_version(path) != int(major))
    if sys.platform == 'win32':
        yield from (f'nvrtc64_{number}0_0.dll' for number in ([major] if major else ()))
    else:
        yield from ((f'libnvrtc.so.{major}',) if major else ())
        yield 'libnvrtc.so'


def major_version(path: str) -> int | None:
    """The CUDA version in a file name such as libnvrtc.so.12, libnvrtc-0123abcd.so.11.2 or nvrtc64_120_0.dll."""
    match = re.search(r'\.so\.(\d+)', path) or re.search(r'nvrtc64_(\d\d)\d_', path)
    return int(match[1]) if match else None


def _library_folders() -> Iterator[Path]:
    wheels = importlib.util.find_spec('nvidia')  # a namespace that the wheels of CUDA share
    for root in (wheels.submodule_search_locations or ()) if wheels else ():
        for part in ('lib', 'bin', 'bin/x86_64'):
            yield from sorted(Path(root).glob(f'*/{part}'))
    yield Path(torch.__file__).parent / 'lib'
    for variable in ('CUDA_HOME', 'CUDA_PATH'):
        if os.environ.get(variable):
            yield from (Path(os.environ[variable]) / part for part in ('lib64', 'lib', 'bin'))
    if sys.platform != 'win32':
        yield Path('/usr/local/cuda/lib64')


def target(capability: tuple[int, int], architectures: Sequence[int]) -> str:
    """The compiler's target for a GPU: `sm_86`, or the nearest that the driver can bring to it.

    Machine code runs on later minor versions of its generation; for a later generation the driver itself finishes
    portable code (`compute_90`). CompilerMissing where the GPU is older than all of the compiler's architectures.
    """
    wanted = capability[0] * 10 + capability[1]
    older = [architecture for architecture in architectures if architecture <= wanted]
    if not older:
        raise CompilerMissing(
            'this NVRTC has no support any more for GPUs of compute capability '
            f'{capability[0]}.{capability[1]}; install the nvidia-cuda-nvrtc of an older CUDA'
        )
    best = max(older)
    return f'sm_{best}' if best // 10 == capability[0] else f'compute_{best}'


# ---------------------------------------------------------------------------------------------------------------------
# Binaries on disk


def build(name: str, source: str, headers: Mapping[str, str], options: Sequence[str]) -> Binary:
    """What `Compiler.compile` gives, from disk where this was compiled before."""
    nvrtc = compiler()
    digest = hashlib.sha256(repr((name, source, sorted(headers.items()), list(options), nvrtc.version)).encode())
    folder = cache_folder()
    path = folder and folder / f'{name}-{digest.hexdigest()[:32]}.bin'
    image = path and _read_binary(path)
    if image:
        return Binary(image, '')
    binary = nvrtc.compile(name, source, headers, options)
    if path:
        _write_binary(path, binary.image)
    return binary


def cache_folder() -> Path | None:
    """Where binaries are kept, or None: then each process compiles what it needs."""
    try:
        return writable_folder('ada_gan_cuda')[0]
    except BuildError as error:
        _say_once(f'CUDA kernels are compiled anew in each process: {error}.')
        return None


def _read_binary(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header, image = content[: len(CACHE_FORMAT) + 32], content[len(CACHE_FORMAT) + 32 :]
    return image if header == CACHE_FORMAT + hashlib.sha256(image).digest() else None


def _write_binary(path: Path, image: bytes) -> None:
    try:
        with atomic_file(path) as file:
            file.write(CACHE_FORMAT + hashlib.sha256(image).digest() + image)
    except OSError as error:
        _say_once(f'CUDA kernels are compiled anew in each process: {path} cannot be written ({error.strerror}).')


@functools.cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# What the assembler says


class Usage(NamedTuple):
    """What a kernel takes, as the log of `--ptxas-options=-v` has it."""

    registers: int
    spilled_bytes: int  # stored and loaded again
    stack_bytes: int
    shared_bytes: int  # static


def usage(log: str) -> Usage:
    """Read the log of a program with one kernel. ValueError where it says nothing."""
    registers = re.search(r'Used (\d+) registers', log)
    if not registers:
        raise ValueError(f'no register count in the log: {log!r}')

    def total(pattern):
        return sum(int(number) for number in re.findall(pattern, log))

    return Usage(
        int(registers[1]), total(r'(\d+) bytes spill'), total(r'(\d+) bytes stack frame'), total(r'(\d+) bytes smem')
    )
