"""Run-time compilation of CUDA sources with NVRTC, which requires only one shared library of CUDA.

The library is called through its C interface by ctypes: a dozen functions that have not changed since CUDA 11.
PyTorch's CUDA wheels bring the library in their own version, so nothing has to be installed where PyTorch runs on a
GPU. (With `cuda-core` and `cuda-bindings`, the same would take two more packages.) If PyTorch was built without it,
`pip install nvidia-cuda-nvrtc` installs it. Compiling requires no GPU.

Binaries are kept on disk. The name of a file contains a hash of everything that the binary depends on; the file is
written under a temporary name, moved into place, and contains a checksum. So processes need no lock, and neither a
process that is killed nor a full disk leaves a file that is mistaken for a binary.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dnnlib.files import atomic_file
from dnnlib.scratch import remove_abandoned
from torch_utils.ops.build import BuildError, writable_folder

INSTALL = 'pip install nvidia-cuda-nvrtc'
CACHE_FORMAT = b'ADA1'  # the first bytes of a file, followed by the checksum of the rest


class CompilerMissing(RuntimeError):
    """NVRTC is missing or cannot be used; the message says what to do."""


class CompilationFailed(RuntimeError):
    """NVRTC rejected a source; the message contains its output."""


class Binary(NamedTuple):
    """A compiled program."""

    image: bytes  # what the driver loads
    log: str  # output of compiler and assembler; empty if the binary was read from disk


# ---------------------------------------------------------------------------------------------------------------------
# The library


class Compiler:
    """NVRTC, with its `path`, `version` (major, minor), and the `architectures` it supports (80, 90, ...).

    Args:
        path: Path of the shared library.

    Raises:
        CompilerMissing: The library cannot be used.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            self.version = self._read_version()
            self.architectures = self._read_architectures()
        except (OSError, AttributeError) as error:
            raise CompilerMissing(f'{path} cannot be used as NVRTC: {error}') from error

    def compile(self, name: str, source: str, headers: Mapping[str, str], options: Sequence[str]) -> Binary:
        """Compile a program.

        Args:
            name: Name for messages.
            source: Source text.
            headers: Text of each file that may be included.
            options: Options of the compiler. The architecture is real (sm_90, for machine code) or virtual (compute_90,
                for PTX).

        Raises:
            CompilationFailed: The source contains errors.
        """
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


def compilers() -> Iterator[Compiler]:
    """Yield every NVRTC that can be used, the one that matches PyTorch best first.

    Raises:
        CompilerMissing: No NVRTC can be used.
    """
    failures, found = [], False
    for path in candidates():
        try:
            compiler = _opened(path)
        except CompilerMissing as error:
            failures.append(str(error))
        else:
            found = True
            yield compiler
    if not found:
        raise CompilerMissing(failures[0] if failures else f'the CUDA compiler library NVRTC is missing; {INSTALL}')


_opened = functools.cache(Compiler)


def compiler() -> Compiler:
    """Return the first of `compilers`.

    Raises:
        CompilerMissing: No NVRTC can be used.
    """
    return next(compilers())


def candidates() -> Iterator[str]:
    """Yield paths where NVRTC may be, best first: Python wheels, starting with PyTorch's CUDA version; the toolkit."""
    major = (torch.version.cuda or '').split('.')[0]
    paths = [
        str(file)
        for folder in _library_folders()
        for pattern in ('libnvrtc[.-]*', 'nvrtc64_*.dll')
        for file in sorted(folder.glob(pattern))
        if 'builtins' not in file.name and '.alt.' not in file.name
    ]
    # Code from a newer compiler may need a newer driver than PyTorch does.
    yield from sorted(paths, key=lambda path: not major or major_version(path) != int(major))
    if sys.platform == 'win32':
        yield from (f'nvrtc64_{number}0_0.dll' for number in ([major] if major else ()))
    else:
        yield from ((f'libnvrtc.so.{major}',) if major else ())
        yield 'libnvrtc.so'


def major_version(path: str) -> int | None:
    """Return the CUDA version in a name such as libnvrtc.so.12, libnvrtc-0123abcd.so.11.2 or nvrtc64_120_0.dll."""
    match = re.search(r'\.so\.(\d+)', path) or re.search(r'nvrtc64_(\d\d)\d_', path)
    return int(match[1]) if match else None


def _library_folders() -> Iterator[Path]:
    wheels = importlib.util.find_spec('nvidia')  # a namespace package that the CUDA wheels share
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
    """Return the compilation target for a GPU, such as 'sm_86', or the closest one that runs on it.

    Machine code also runs on later minor versions of its generation. For a later generation, the target is portable
    code such as 'compute_90', which the driver compiles.

    Args:
        capability: Compute capability of the GPU.
        architectures: Architectures that the compiler supports.

    Raises:
        CompilerMissing: The GPU is older than all of the architectures.
    """
    exact = capability[0] * 10 + capability[1]
    supported = [architecture for architecture in architectures if architecture <= exact]
    if not supported:
        raise CompilerMissing(
            f'this NVRTC no longer supports GPUs of compute capability {capability[0]}.{capability[1]}; '
            'install one for an older version of CUDA, such as nvidia-cuda-nvrtc-cu12'
        )
    best = max(supported)
    return f'sm_{best}' if best // 10 == capability[0] else f'compute_{best}'


class Choice(NamedTuple):
    """A compiler, and what it compiles for a GPU."""

    compiler: Compiler
    target: str


def choose(capability: tuple[int, int], driver_version: tuple[int, int], found: Iterable[Compiler]) -> Choice:
    """Return the first compiler whose machine code the GPU and its driver accept, or else whose portable code they do.

    A driver loads machine code of any minor version of the CUDA versions it supports. It compiles portable code only
    if that is not newer than the driver itself.

    Args:
        capability: Compute capability of the GPU.
        driver_version: The newest CUDA version (major, minor) that the driver supports.
        found: Compilers, best first.

    Raises:
        CompilerMissing: No compiler is suitable.
    """
    reasons, portable = [], None
    for compiler in found:
        try:
            choice = Choice(compiler, target(capability, compiler.architectures))
        except CompilerMissing as error:
            reasons.append(str(error))
            continue
        is_portable = choice.target.startswith('compute_')
        if compiler.version[0] > driver_version[0] or (is_portable and compiler.version > driver_version):
            reasons.append(_too_new(compiler, driver_version))
        elif not is_portable:
            return choice
        else:
            portable = portable or choice
    if portable is None:
        raise CompilerMissing(reasons[0])
    return portable


def _too_new(compiler: Compiler, driver_version: tuple[int, int]) -> str:
    major, minor = driver_version
    package = 'nvidia-cuda-nvrtc' if major >= 13 else f'nvidia-cuda-nvrtc-cu{major}'
    return (
        f'{compiler.path} is of CUDA {compiler.version[0]}.{compiler.version[1]}, but the driver only supports CUDA '
        f'{major}.{minor}; update the driver, or install {package} of that version'
    )


# ---------------------------------------------------------------------------------------------------------------------
# Binaries on disk


def build(
    name: str, source: str, headers: Mapping[str, str], options: Sequence[str], nvrtc: Compiler | None = None
) -> Binary:
    """Return what `Compiler.compile` returns, from disk if the program has been compiled before.

    The compiler is the first of `compilers` if none is given.
    """
    nvrtc = nvrtc or compiler()
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
    """Return the folder for binaries, or None if there is none; then each process compiles the kernels it needs."""
    try:
        folder = writable_folder('ada_gan_cuda')[0]
        remove_abandoned(folder)
        return folder
    except BuildError as error:
        _print_once(f'Each process compiles its CUDA kernels again, because {error}.')
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
        _print_once(
            f'Each process compiles its CUDA kernels again, because {path} cannot be written ({error.strerror}).'
        )


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# Resource usage


class Usage(NamedTuple):
    """Resources that a kernel uses, according to the log of `--ptxas-options=-v`."""

    registers: int
    spilled_bytes: int  # stores and loads
    stack_bytes: int
    shared_bytes: int  # static


def usage(log: str) -> Usage:
    """Return the resource usage from the log of a program with one kernel.

    Raises:
        ValueError: The log does not contain it.
    """
    registers = re.search(r'Used (\d+) registers', log)
    if not registers:
        raise ValueError(f'no register count in the log: {log!r}')

    def total(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, log))

    return Usage(
        int(registers[1]), total(r'(\d+) bytes spill'), total(r'(\d+) bytes stack frame'), total(r'(\d+) bytes smem')
    )
