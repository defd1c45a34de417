"""Compiling CUDA kernels with their constants, and launching them on tensors."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torch_utils.ops import cuda_driver, nvrtc


class Kernel(NamedTuple):
    """A kernel and the constants that it is compiled with."""

    file: str  # in the folder of this module
    name: str
    constants: tuple[tuple[str, Any], ...]  # (macro, value)

    @property
    def source(self) -> str:
        """The source text to compile."""
        macros = ''.join(f'#define {name} {value}\n' for name, value in self.constants)
        return f'{macros}#include "{self.file}"\n'


class Launch(NamedTuple):
    """A launch of a kernel, except for the addresses of the tensors, the first members of the struct that it takes."""

    kernel: Kernel
    blocks: int
    threads: int  # per block
    shared_bytes: int  # dynamic shared memory per block
    constants: bytes  # the other members of the struct

    def argument(self, addresses: Sequence[int]) -> bytes:
        """Return the struct."""
        return struct.pack(f'={len(addresses)}Q', *addresses) + self.constants


def run(launch: Launch, tensors: Sequence[torch.Tensor | None]) -> None:
    """Launch a kernel on the current stream.

    Args:
        launch: What to launch.
        tensors: The tensors of the struct, in its order. All except the first may be None.
    """
    first = tensors[0]
    assert first is not None
    index = first.get_device()
    function = load(launch, index)
    argument = launch.argument([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    stream = torch.cuda.current_stream(index).cuda_stream
    cuda_driver.device(index).launch(function, launch.blocks, launch.threads, launch.shared_bytes, argument, stream)


def load(launch: Launch, index: int) -> Any:
    """Return the driver's handle of a kernel on cuda:`index`; the kernel is compiled and loaded if needed.

    Raises:
        nvrtc.CompilerMissing: There is no compiler for this GPU.
        nvrtc.CompilationFailed: The compiler rejects the kernel.
        cuda_driver.DriverError: The kernel cannot be loaded.
    """
    kernel = launch.kernel

    def build() -> bytes:
        compiler, target = choice(index)
        return compile_kernel(kernel, target, compiler).image

    return cuda_driver.device(index).function(kernel, kernel.name, build, launch.shared_bytes)


@functools.cache
def choice(index: int) -> nvrtc.Choice:
    """Return the compiler for the kernels of cuda:`index`, and its target.

    Raises:
        nvrtc.CompilerMissing: There is no compiler for this GPU and its driver.
        cuda_driver.DriverError: The driver cannot be used.
    """
    return nvrtc.choose(torch.cuda.get_device_capability(index), cuda_driver.version(), nvrtc.compilers())


def compile_kernel(kernel: Kernel, target: str, compiler: nvrtc.Compiler | None = None) -> nvrtc.Binary:
    """Return the binary of a kernel for a target such as 'sm_90', from disk if it has been compiled before.

    The compiler is the first of `nvrtc.compilers` if none is given.
    """
    options = (
        f'--gpu-architecture={target}',
        '--std=c++17',
        '--device-as-default-execution-space',
        '--ptxas-options=-v',
    )
    return nvrtc.build(kernel.name, kernel.source, _sources(), options, compiler)


@functools.lru_cache(maxsize=1)
def _sources() -> dict[str, str]:
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in ('.cu', '.cuh', '.h'))
    return {file.name: file.read_text(encoding='utf-8') for file in files}
