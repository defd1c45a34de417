"""`torch.cuda` and the collectives of `torch.distributed` on the rehearsal device."""

from __future__ import annotations

import contextlib
import ctypes
import types
from collections.abc import Iterator
from typing import Any

import torch

from tests.rehearsal import kernels
from tests.rehearsal.backend import backend
from torch_utils.ops import cuda_driver, cuda_launch, nvrtc

CAPABILITY = (8, 0)
CUDA = (12, 8)
NAME = 'Rehearsal device'


def install(devices: int, memory_bytes: int) -> None:
    """Replace what PyTorch and this project ask a GPU."""
    backend().rehearsal_give_default_generators(1)
    generators = tuple(torch.Generator(f'cuda:{index}') for index in range(devices))
    backend().rehearsal_give_default_generators(0)
    for name, value in _replacements(devices, memory_bytes, generators).items():
        setattr(torch.cuda, name, value)
    torch.version.cuda = '.'.join(map(str, CUDA))
    torch._C._jit_override_can_fuse_on_gpu(False)  # TorchScript would compile kernels for the device
    cuda_launch.run = _run
    cuda_launch.load = lambda launch, index: None
    cuda_launch.choice = lambda index: nvrtc.Choice(types.SimpleNamespace(path='g++', version=CUDA), 'sm_80')
    cuda_driver.version = lambda: CUDA
    _replace_collectives()
    torch.UntypedStorage.clone = lambda storage: _as_tensor(storage).clone().untyped_storage()
    torch.UntypedStorage.to = torch.UntypedStorage.cuda = _move_storage


def _as_tensor(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty([0], dtype=torch.uint8, device=storage.device).set_(storage)


def _move_storage(
    storage: torch.UntypedStorage, device: Any = 'cuda', non_blocking: bool = False
) -> torch.UntypedStorage:
    """Copy a storage to a device. PyTorch cannot construct storages on devices that it was built without."""
    return _as_tensor(storage).to(torch.device(device), non_blocking=non_blocking).untyped_storage()


def _run(launch: cuda_launch.Launch, tensors: Any) -> None:
    """Take the place of `cuda_launch.run`: run a kernel in the emulation."""
    assert all(tensor is None or tensor.device.type == 'cuda' for tensor in tensors), 'a kernel got memory of the CPU'
    argument = launch.argument([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    function = ctypes.cast(kernels.compiled(launch.kernel), ctypes.c_void_p)
    backend().rehearsal_launch(function, launch.blocks, launch.threads, argument, len(argument))


# ---------------------------------------------------------------------------------------------------------------------
# torch.cuda


def _index(device: Any = None) -> int:
    if device is None:
        return backend().rehearsal_device()
    if isinstance(device, int):
        return backend().rehearsal_device() if device < 0 else device
    index = torch.device(device).index
    return backend().rehearsal_device() if index is None else index


class Stream:
    """All work is done when it is launched, so streams differ in their names only."""

    cuda_stream = 0

    def __init__(self, device: Any = None, priority: int = 0, **_kwargs: Any):
        self.device = torch.device('cuda', _index(device))

    def synchronize(self) -> None:
        backend().rehearsal_synchronize(b'Stream.synchronize')

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_error: object) -> None: ...


class Event:
    def __init__(self, *_args: Any, **_kwargs: Any): ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Any) -> float:
        return 0.0

    def synchronize(self) -> None:
        backend().rehearsal_synchronize(b'Event.synchronize')


class CUDAGraph:
    """A recorded sequence of operators, replayed on the same memory."""

    def __init__(self, keep_graph: bool = False):
        self._graph: int | None = None

    def capture_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._graph = backend().rehearsal_capture_begin()

    def capture_end(self) -> None:
        backend().rehearsal_capture_end()

    def replay(self) -> None:
        backend().rehearsal_replay(self._graph)

    def reset(self) -> None:
        if self._graph is not None:
            backend().rehearsal_graph_free(self._graph)
        self._graph = None

    def __del__(self) -> None:
        self.reset()

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def num_steps(self) -> int:
        return backend().rehearsal_graph_size(self._graph)

    def register_generator_state(self, generator: Any) -> None: ...


@contextlib.contextmanager
def _graph(graph: CUDAGraph, *_args: Any, **_kwargs: Any) -> Iterator[None]:
    graph.capture_begin()
    try:
        yield
    finally:
        graph.capture_end()


class _Device:
    """`torch.cuda.device`: within this context, another device is the current one."""

    def __init__(self, device: Any):
        self.idx = _index(device)
        self._before = self.idx

    def __enter__(self) -> None:
        self._before = _index()
        backend().rehearsal_set_device(self.idx)

    def __exit__(self, *_error: object) -> None:
        backend().rehearsal_set_device(self._before)


def _replacements(devices: int, total: int, generators: tuple) -> dict[str, Any]:
    """Return what replaces the names of `torch.cuda`."""

    calls = backend()

    def checked(device: Any = None) -> int:
        index = _index(device)
        if not 0 <= index < devices:
            raise RuntimeError(f'CUDA error: invalid device ordinal {index} of {devices}')
        return index

    def properties(device: Any = None) -> types.SimpleNamespace:
        checked(device)
        return types.SimpleNamespace(
            name=NAME, total_memory=total, major=CAPABILITY[0], minor=CAPABILITY[1], multi_processor_count=108
        )

    def sync_debug_mode(mode: int | str) -> None:
        calls.rehearsal_sync_mode({'default': 0, 'warn': 1, 'error': 2}.get(mode, mode))

    def stream(device: Any = None) -> Stream:
        return Stream(device)

    def seed_all(seed: int) -> None:
        for generator in generators:
            generator.manual_seed(seed)

    used, peak = (lambda f: lambda device=None: f(checked(device)))(calls.rehearsal_used), calls.rehearsal_peak
    return {
        'rehearsal': True,
        'is_available': lambda: devices > 0,
        'is_initialized': lambda: True,
        'init': lambda: None,
        '_lazy_init': lambda: None,
        '_is_in_bad_fork': lambda: False,
        'device_count': lambda: devices,
        'current_device': lambda: _index(),
        'set_device': lambda device: calls.rehearsal_set_device(checked(device)),
        'device': _Device,
        'get_device_name': lambda device=None: properties(device).name,
        'get_device_capability': lambda device=None: (checked(device), CAPABILITY)[1],
        'get_device_properties': properties,
        'get_arch_list': lambda: ['sm_80'],
        'is_bf16_supported': lambda *_args, **_kwargs: True,
        'mem_get_info': lambda device=None: (total - used(device), total),
        'memory_allocated': used,
        'memory_reserved': used,
        'max_memory_allocated': lambda device=None: peak(checked(device)),
        'max_memory_reserved': lambda device=None: peak(checked(device)),
        'reset_peak_memory_stats': lambda device=None: calls.rehearsal_reset_peak(checked(device)),
        'empty_cache': lambda: None,
        'synchronize': lambda device=None: calls.rehearsal_synchronize(b'synchronize'),
        'current_stream': stream,
        'default_stream': stream,
        'stream': lambda stream: stream or contextlib.nullcontext(),
        'Stream': Stream,
        'Event': Event,
        'CUDAGraph': CUDAGraph,
        'graph': _graph,
        'is_current_stream_capturing': lambda: bool(calls.rehearsal_capturing()),
        'set_sync_debug_mode': sync_debug_mode,
        'get_sync_debug_mode': lambda: calls.rehearsal_sync_mode(-1),
        'default_generators': generators,
        'manual_seed': lambda seed: generators[_index()].manual_seed(seed),
        'manual_seed_all': seed_all,
        'initial_seed': lambda: generators[_index()].initial_seed(),
        'get_rng_state': lambda device='cuda': generators[checked(device)].get_state(),
        'set_rng_state': lambda state, device='cuda': generators[checked(device)].set_state(state),
        'get_rng_state_all': lambda: [generator.get_state() for generator in generators],
    }


# ---------------------------------------------------------------------------------------------------------------------
# torch.distributed


def _replace_collectives() -> None:
    """Let gloo do what NCCL would, on the same memory."""
    distributed, inside = torch.distributed, torch.distributed.distributed_c10d
    init = distributed.init_process_group
    distributed.init_process_group = lambda backend=None, **kwargs: init('gloo', **kwargs)
    for name in ('all_reduce', 'broadcast', 'gather', 'all_gather', 'reduce', 'barrier'):
        collective = _on_host(getattr(inside, name))
        setattr(distributed, name, collective)
        setattr(inside, name, collective)  # collectives of objects call these


def _on_host(collective: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop('device_ids', None)
        return collective(*map(host_view, args), **{name: host_view(value) for name, value in kwargs.items()})

    return run


def host_view(value: Any) -> Any:
    """Return a tensor of the CPU in the memory of a tensor of the device, or the same in a list; others as they are."""
    if isinstance(value, list):
        return [host_view(item) for item in value]
    if not isinstance(value, torch.Tensor) or value.device.type != 'cuda':
        return value
    assert value.is_contiguous(), 'NCCL needs contiguous tensors'
    memory = (ctypes.c_char * value.nbytes).from_address(value.data_ptr()) if value.nbytes else bytearray()
    return (
        torch.frombuffer(memory, dtype=value.dtype).view(value.shape)
        if value.nbytes
        else value.new_empty(value.shape, device='cpu')
    )
