"""Loading kernels onto a GPU and launching them, through the CUDA driver API by ctypes.

PyTorch's context, current stream and memory are used. Nothing here waits for the GPU or allocates memory on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

MAX_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
CAPTURE_MODE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


class DriverError(RuntimeError):
    """A failed call of the driver; the message names the call and the reason."""


class Device:
    """A GPU, with the kernels that have been loaded onto it.

    Args:
        index: The index in PyTorch's name of the device, cuda:`index`.
    """

    def __init__(self, index: int):
        self._driver = _driver()
        self._call = functools.partial(_call, self._driver)
        self._functions: dict[Hashable, ctypes.c_void_p] = {}
        self._lock = threading.Lock()
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call('cuInit', 0)
        self._call('cuDeviceGet', ctypes.byref(device), index)
        self._call('cuDevicePrimaryCtxRetain', ctypes.byref(self._context), device)  # the context of PyTorch

    def function(self, key: Hashable, name: str, build: Callable[[], bytes], shared_bytes: int = 0) -> ctypes.c_void_p:
        """Return a kernel, which is loaded once per key.

        Args:
            key: What identifies the kernel.
            name: Name of the kernel in the binary.
            build: Called for the binary if the kernel has not been loaded.
            shared_bytes: Dynamic shared memory that the kernel needs.

        Raises:
            DriverError: The kernel cannot be loaded.
        """
        function = self._functions.get(key)
        if function is None:
            with self._lock:
                function = self._functions.get(key)
                if function is None:
                    function = self._functions[key] = self._load(name, build(), shared_bytes)
        return function

    def launch(
        self, function: ctypes.c_void_p, blocks: int, threads: int, shared_bytes: int, argument: bytes, stream: int
    ) -> None:
        """Launch a kernel that takes one argument, a struct, on a stream.

        Args:
            function: What `function` returned.
            blocks: Number of blocks.
            threads: Threads per block.
            shared_bytes: Dynamic shared memory per block.
            argument: The bytes of the struct.
            stream: Handle of the stream.
        """
        values = ctypes.create_string_buffer(argument, len(argument))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(values))  # The driver copies the values.
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        with self._current_context():
            self._call('cuLaunchKernel', function, *grid, *block, shared_bytes, ctypes.c_void_p(stream), pointers, None)

    def _load(self, name: str, image: bytes, shared_bytes: int) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        with self._current_context(), self._allowed_while_capturing():
            self._call('cuModuleLoadData', ctypes.byref(module), image)
            self._call('cuModuleGetFunction', ctypes.byref(function), module, name.encode())
            if shared_bytes > 0:  # More than 48 KiB, including static shared memory, must be requested explicitly.
                self._call('cuFuncSetAttribute', function, MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
        return function

    @contextlib.contextmanager
    def _current_context(self) -> Iterator[None]:
        """Make the context of this GPU current in this thread, which may be a thread of autograd."""
        self._call('cuCtxPushCurrent_v2', self._context)
        try:
            yield
        finally:
            self._call('cuCtxPopCurrent_v2', ctypes.byref(ctypes.c_void_p()))

    @contextlib.contextmanager
    def _allowed_while_capturing(self) -> Iterator[None]:
        """Allow this thread to load a module even while one of its streams is captured into a CUDA graph."""
        mode = ctypes.c_int(CAPTURE_MODE_RELAXED)
        self._call('cuThreadExchangeStreamCaptureMode', ctypes.byref(mode))
        try:
            yield
        finally:
            self._call('cuThreadExchangeStreamCaptureMode', ctypes.byref(mode))


@functools.cache
def device(index: int) -> Device:
    """Return the GPU cuda:`index`.

    Raises:
        DriverError: The driver cannot be used.
    """
    torch.cuda.init()
    return Device(index)


def version() -> tuple[int, int]:
    """Return the newest CUDA version (major, minor) that the driver supports.

    Raises:
        DriverError: The driver cannot be used.
    """
    number = ctypes.c_int()
    _call(_driver(), 'cuDriverGetVersion', ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


@functools.lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    name = 'nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1'
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise DriverError(f'the driver library {name} cannot be loaded: {error}') from error


def _call(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    status = getattr(driver, name)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise DriverError(f'{name} failed: {(text.value or b"unknown error").decode()}')
