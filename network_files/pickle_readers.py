"""The names that a network pickle may contain, and the functions that create the values they stand for.

To plain data (`plain_pickle.readers`) these add persistent objects and tensors, which are views of bytes in the file.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import torch

from plain_pickle import readers as plain_readers
from plain_pickle.machine import Budget, BudgetedReader, Machine, ObjectWithState, checked_sizes


@dataclass(eq=False)
class PersistentObject(ObjectWithState):
    """The content of a pickle about an object of a persistent class."""

    class_name: str
    version: int
    module_src: str = field(repr=False)
    state: dict[str, Any] = field(repr=False)


def _persistent_object(meta: Any) -> PersistentObject:
    if not isinstance(meta, dict) or meta.get('type') != 'class':
        raise ValueError('a persistent object that is not a class')
    class_name, version, module_src, state = map(meta.get, ('class_name', 'version', 'module_src', 'state'))
    if (
        not isinstance(class_name, str)
        or not isinstance(version, int)
        or not isinstance(module_src, str)
        or not isinstance(state, dict)
    ):
        raise ValueError('a persistent object without class_name, version, module_src or state')
    return PersistentObject(class_name, version, module_src, state)


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch

STORAGE_DTYPES = {
    'FloatStorage': torch.float32,
    'DoubleStorage': torch.float64,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}


STORAGE_READERS = {f'torch.{name}': plain_readers.not_callable for name in STORAGE_DTYPES}
STREAM_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before its zip format, which storages inside pickles still use
STREAM_PROTOCOL = 1001


def _storage(data: Any, budget: Budget) -> torch.Tensor:
    """Read a one-dimensional tensor as written by `torch.save(storage)`: five pickles, then sizes and raw values."""
    if not isinstance(data, bytes):
        raise TypeError('a storage that is not bytes')
    file = io.BytesIO(data)
    described: dict[str, tuple[torch.dtype, int]] = {}  # dtype and number of elements by key

    def describe(reference: Any) -> str:
        if not isinstance(reference, tuple) or len(reference) > 6:
            raise ValueError('a storage in an unknown layout')
        kind, storage_type, key, _location, count, *view = reference
        if kind != 'storage' or type(count) is not int or not isinstance(key, str) or view not in ([], [None]):
            raise ValueError('a storage in an unknown layout')
        described[key] = STORAGE_DTYPES[storage_type.name.removeprefix('torch.')], count
        return key

    magic, protocol, system = (Machine(file, {}, budget).run() for _ in range(3))
    if magic != STREAM_MAGIC or protocol != STREAM_PROTOCOL or not system.get('little_endian', True):
        raise ValueError('a storage in an unknown layout')
    result_key = Machine(file, STORAGE_READERS, budget, persistent_load=describe).run()
    keys = Machine(file, {}, budget).run()
    if not isinstance(result_key, str) or keys != [result_key] or result_key not in described:
        raise ValueError('a storage in an unknown layout')

    dtype, count = described[result_key]
    written_count = struct.unpack('<q', file.read(8))[0]
    values = bytearray(file.read())
    if count != written_count or len(values) != count * dtype.itemsize:
        raise ValueError(f'a storage of {count} values that contains {len(values)} bytes')
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    backward_hooks: Any = None,
    metadata: Any = None,
) -> torch.Tensor:
    size, stride = checked_sizes(size), checked_sizes(stride)
    if not isinstance(storage, torch.Tensor) or type(offset) is not int or math.prod(size) > max(storage.numel(), 1):
        raise ValueError(f'a tensor of shape {size} that does not match its storage')
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Any, requires_grad: Any = True, backward_hooks: Any = None, state: Any = None) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise TypeError('a parameter that is not a tensor')
    return data


def _size(items: Any = ()) -> torch.Size:
    return torch.Size(checked_sizes(items))


def _device(kind: Any, index: Any = None) -> torch.device:
    if kind not in ('cpu', 'cuda', 'mps', 'meta') or not (index is None or type(index) is int):
        raise ValueError('a device of an unknown kind')
    return torch.device(kind) if index is None else torch.device(kind, index)


READERS: dict[str, Any] = {
    **plain_readers.READERS,
    'torch_utils.persistence._reconstruct_persistent_obj': _persistent_object,
    'torch.storage._load_from_bytes': BudgetedReader(_storage),
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': lambda data, grad, hooks, state=None: _parameter(data),
    'torch.Size': _size,
    'torch.device': _device,
    **{str(dtype): dtype for dtype in STORAGE_DTYPES.values()},
}
"""Everything that a network pickle may name: a function of the arguments, or a constant."""
