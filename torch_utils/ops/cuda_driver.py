"""Loading kernels onto a GPU and starting them, through CUDA's driver interface by ctypes.

PyTorch stays in charge: its context, its current stream, its memory. Nothing here waits for the GPU or allocates on it.
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator

import torch

MAX_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
CAPTURE_MODE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


class DriverError(RuntimeError):
    """A call of the driver failed; the text names the call and its reason."""


class Device:
    """The GPU that PyTorch calls cuda:`index`, with the kernels that were loaded onto it."""

    def __init__(self, index: int):
        self._driver = _driver()
        self._call = functools.partial(_call, self._driver)
        self._functions: dict = {}
        self._lock = threading.Lock()
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call('cuInit', 0)
        self._call('cuDeviceGet', ctypes.byref(device), index)
        self._call('cuDevicePrimaryCtxRetain', ctypes.byref(self._context), device)  # the context of PyTorch

    def function(self, key, name: str, build, shared_bytes: int = 0) -> ctypes.c_void_p:
        """The kernel `name` of the binary that `build()` gives, loaded once for each `key`."""
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
        """Put a kernel with one argument, a struct, on a stream."""
        values = ctypes.create_string_buffer(argument, len(argument))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(values))  # The driver copies what these point to.
        with self._current():
            self._call(
                'cuLaunchKernel',
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                shared_bytes,
                ctypes.c_void_p(stream),
                pointers,
                None,
            )

    def _load(self, name, image, shared_bytes):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        with self._current(), self._allowed_while_capturing():
            self._call('cuModuleLoadData', ctypes.byref(module), image)
            self._call('cuModuleGetFunction', ctypes.byref(function), module, name.encode())
            if shared_bytes > 0:  # Together with what the kernel declares, more than 48 KiB must be asked for.
                self._call('cuFuncSetAttribute', function, MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
        return function

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Make this GPU's context the current one of the thread, which may be one of autograd's."""
        self._call('cuCtxPushCurrent_v2', self._context)
        try:
            yield
        finally:
            self._call('cuCtxPopCurrent_v2', ctypes.byref(ctypes.c_void_p()))

    @contextlib.contextmanager
    def _allowed_while_capturing(self) -> Iterator[None]:
        """Let this thread load a module although one of its streams is being captured into a CUDA graph."""
        mode = ctypes.c_int(CAPTURE_MODE_RELAXED)
        self._call('cuThreadExchangeStreamCaptureMode', ctypes.byref(mode))
        try:
            yield
        finally:
            self._call('cuThreadExchangeStreamCaptureMode', ctypes.byref(mode))


@functools.cache
def device(index: int) -> Device:
    """The GPU cuda:`index`; DriverError where the driver cannot be used."""
    torch.cuda.init()
    return Device(index)


@functools.lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    name = 'nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1'
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise DriverError(f'the driver library {name} cannot be loaded: {error}') from error


def _call(driver, name, *arguments):
    status = getattr(driver, name)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise DriverError(f'{name} failed: {(text.value or b"unknown error").decode()}')
