"""The names that a pickle may contain, and the functions that create the values they stand for.

The values are numbers, containers, arrays and tensors. Arrays and tensors are views of bytes in the file.
"""

from __future__ import annotations

import collections
import io
import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.text import excerpt
from network_files.pickle_machine import (
    Budget,
    BudgetedReader,
    Global,
    Machine,
    PersistentObject,
    RefusedGlobal,
    checked_key,
    checked_sizes,
    fill_dict,
    number_dtype,
)


def _not_callable(*_: Any) -> Any:
    raise TypeError('a call to a type that only stands for itself')


def _checked_items(items: Any) -> Any:
    """Return the items of a container, whose length is known and has been paid for."""
    if not isinstance(items, (list, tuple, dict, set, frozenset)):
        raise TypeError(f'a container created from a {type(items).__name__}')
    return items


def _make_set(items: Any = (), kind: Callable[[Iterable[Any]], Any] = set) -> Any:
    return kind(checked_key(item) for item in _checked_items(items))


def _make_dict(*items: Any, kind: Callable[[], dict[Any, Any]] = dict) -> dict[Any, Any]:
    pairs = items[0] if items else ()
    pairs = pairs.items() if isinstance(pairs, dict) else _checked_items(pairs)
    return fill_dict(kind(), [part for key, value in pairs for part in (key, value)])


def _make_easy_dict(*items: Any) -> dict[Any, Any]:
    return _make_dict(*items, kind=dnnlib.EasyDict)


def _object_of_protocol_0(cls: Any, base: Any, items: Any = None) -> Any:
    """Create an object as protocols 0 and 1 write it: from its base class, with a state that BUILD adds."""
    if not isinstance(cls, Global) or not isinstance(base, Global):
        raise TypeError('an object of something that is not a name')
    return cls.make() if items is None else cls.make(items)


def _empty_bytes() -> bytes:
    return b''  # the only way to write it in protocols 0 to 2


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ValueError('text in an unknown encoding')
    return text.encode('latin1')


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
# NumPy


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    code = code.decode('latin1') if isinstance(code, bytes) else code
    if not isinstance(code, str) or re.fullmatch(r'[<>=|]?[biufc]\d{1,2}', code) is None:
        raise RefusedGlobal(f'numpy.dtype({excerpt(code, 20)!r})' if isinstance(code, str) else 'numpy.dtype')
    return np.dtype(code, copy=True)  # not a shared one, because BUILD sets its byte order


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(data, dtype=number_dtype(dtype), count=1)[0]


def _empty_array(cls: Any, shape: Any, code: Any) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or order not in ('C', 'F'):
        raise TypeError('an array in an unknown layout')
    return np.frombuffer(data, dtype=number_dtype(dtype)).reshape(checked_sizes(shape), order=order).copy()


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


STORAGE_READERS = {f'torch.{name}': _not_callable for name in STORAGE_DTYPES}
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before its zip format, which storages inside pickles still use
_STORAGE_PROTOCOL = 1001


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
    if magic != _STORAGE_MAGIC or protocol != _STORAGE_PROTOCOL or not system.get('little_endian', True):
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


# ---------------------------------------------------------------------------------------------------------------------
# Further types that objects of forks contain


def _bytearray(data: Any = b'') -> bytearray:
    if not isinstance(data, bytes):
        raise TypeError('a bytearray that is not created from bytes')
    return bytearray(data)


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise TypeError('a complex number that is not created from two floats')
    return complex(real, imaginary)


def _range(*limits: Any, kind: Callable[..., Any] = range) -> Any:
    if not all(limit is None or type(limit) is int for limit in limits):
        raise TypeError('a range that is not created from integers')
    return kind(*limits)


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise TypeError('a path that is not created from strings')
    return '/'.join(parts)


READERS: dict[str, Any] = {
    'collections.OrderedDict': lambda *items: _make_dict(*items, kind=collections.OrderedDict),
    'dnnlib.util.EasyDict': _make_easy_dict,
    'dnnlib.EasyDict': _make_easy_dict,
    'copyreg._reconstructor': _object_of_protocol_0,
    'copy_reg._reconstructor': _object_of_protocol_0,
    'collections.defaultdict': lambda factory=None, *items: _make_dict(*items),
    **{
        f'{module}.{name}': reader
        for module in ('builtins', '__builtin__')
        for name, reader in {
            'dict': _make_dict,
            'set': _make_set,
            'frozenset': lambda items=(): _make_set(items, kind=frozenset),
            'bytearray': _bytearray,
            'complex': _complex,
            'range': _range,
            'xrange': _range,
            'slice': lambda *limits: _range(*limits, kind=slice),
            **dict.fromkeys(('object', 'int', 'float', 'list', 'tuple', 'str'), _not_callable),
        }.items()
    },
    **{f'pathlib.{kind}': _path for kind in ('Path', 'PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')},
    '__builtin__.bytes': _empty_bytes,
    '_codecs.encode': _encode,
    'torch_utils.persistence._reconstruct_persistent_obj': _persistent_object,
    'numpy.dtype': _dtype,
    'numpy.ndarray': _not_callable,
    **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray._reconstruct': _empty_array for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': _array_from_buffer for core in ('core', '_core')},
    'torch.storage._load_from_bytes': BudgetedReader(_storage),
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': lambda data, grad, hooks, state=None: _parameter(data),
    'torch.Size': _size,
    'torch.device': _device,
    **{str(dtype): dtype for dtype in STORAGE_DTYPES.values()},
}
"""Everything that a pickle may name: a function of the arguments, or a constant."""
