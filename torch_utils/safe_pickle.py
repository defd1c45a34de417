"""Reads pickles without running anything they name.

A pickle is a program for a small stack machine, and Python's own machine lets that program import and call whatever it
likes. The one below knows the same instructions but has no way to import: a global is a key into a table of readers
written here, which make numbers, containers, arrays and tensors. Everything else is refused by name.

Persistent objects (see `persistence`) come back as `PersistentObject`: class name, source text, state. Nothing is made
of them here; that is for `legacy`, which knows the classes.

Memory stays within a small multiple of the file: arrays and tensors are views of bytes that the file really holds.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import dnnlib


class RefusedGlobal(pickle.UnpicklingError):
    """The pickle names something that is not on the list. `name` is what it names."""

    def __init__(self, name: str):
        super().__init__(f'it names {name}, which is not on the list of what may be read')
        self.name = name


@dataclass(eq=False)
class PersistentObject:
    """What a pickle says about an object of a persistent class."""

    class_name: str
    version: int
    module_src: str = field(repr=False)
    state: dict = field(repr=False)


def loads(data: bytes, readers: dict[str, Callable] | None = None) -> Any:
    """The object in the pickle `data`, made of plain data, arrays, tensors on the CPU and `PersistentObject`.

    Args:
        data: A whole pickle, protocol 0 to 5.
        readers: Further globals: dotted name → function called with the arguments in the pickle.

    Raises:
        RefusedGlobal: The pickle names anything that is in neither list.
        pickle.UnpicklingError: It is damaged or not a pickle.
    """
    return _Machine(io.BytesIO(data), READERS | (readers or {})).run()


# ------------------------------------------------------------------------------------------- the machine

_MARK = object()
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError, struct.error)

_PUSH_ARGUMENT = frozenset('''
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
'''.split())  # fmt: skip
_PUSH_NEW = {
    'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False, 'MARK': lambda: _MARK,
    'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': set,
}  # fmt: skip
_FROM_MARK = {
    'LIST': list, 'TUPLE': tuple, 'DICT': lambda items: _fill_dict({}, items),
    'FROZENSET': lambda items: frozenset(map(_checked_key, items)),
}  # fmt: skip
_FROM_TOP = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Global:
    """A name in the pickle. Immutable, so that no instruction can change what the name stands for."""

    __slots__ = ('name', 'make')

    def __init__(self, name: str, make: Callable):
        object.__setattr__(self, 'name', name)
        object.__setattr__(self, 'make', make)

    def __setattr__(self, key, value):
        raise TypeError(f'{self.name} cannot be changed')


class _Machine:
    def __init__(self, file: io.BytesIO, readers: dict[str, Callable], persistent_load: Callable | None = None):
        self.file = file
        self.readers = readers
        self.persistent_load = persistent_load
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute up to STOP; the file is left standing right after it."""
        try:
            for opcode, argument, _ in pickletools.genops(self.file):
                if opcode.name == 'STOP':
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except _DAMAGE as error:
            raise pickle.UnpicklingError(f'damaged, or not a pickle ({error})') from error
        raise pickle.UnpicklingError('damaged: it ends without STOP')

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in _FROM_MARK:
            stack.append(_FROM_MARK[name](self.pop_to_mark()))
        elif name in _FROM_TOP:
            stack[-_FROM_TOP[name] :] = [tuple(self.peek(_FROM_TOP[name]))]
        elif name in ('MEMOIZE', 'PUT', 'BINPUT', 'LONG_BINPUT'):
            self.memo[len(self.memo) if name == 'MEMOIZE' else argument] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(self.memo[argument])
        elif name == 'BUILD':
            state = stack.pop()
            _build(stack[-1], state)
        elif name == 'POP':
            stack.pop()
        elif name == 'POP_MARK':
            self.pop_to_mark()
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name not in ('PROTO', 'FRAME'):
            self.fill(name) or self.call(name, argument)

    def fill(self, name: str) -> bool:
        """Instructions that put items into a container below them."""
        if name in ('APPEND', 'SETITEM'):
            count = 1 if name == 'APPEND' else 2
            items = self.peek(count)
            del self.stack[-count:]
        elif name in ('APPENDS', 'SETITEMS', 'ADDITEMS'):
            items = self.pop_to_mark()
        else:
            return False
        target = self.stack[-1]
        if name.startswith('APPEND') and isinstance(target, list):
            target.extend(items)
        elif name.startswith('SETITEM') and isinstance(target, dict):
            _fill_dict(target, items)
        elif name == 'ADDITEMS' and isinstance(target, set):
            target.update(map(_checked_key, items))
        else:
            raise TypeError(f'{name} on a {type(target).__name__}')
        return True

    def call(self, name: str, argument: Any) -> None:
        """Instructions that look up a name or apply one."""
        stack = self.stack
        if name == 'GLOBAL':
            stack.append(self.look_up(argument.replace(' ', '.', 1)))
        elif name == 'STACK_GLOBAL':
            module, attribute = stack.pop(-2), stack.pop()
            stack.append(self.look_up(f'{module}.{attribute}'))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments = stack.pop()
            stack.append(_apply(stack.pop(), arguments))
        elif name == 'NEWOBJ_EX':
            keywords, arguments = stack.pop(), stack.pop()
            if keywords:
                raise TypeError('objects made with keywords are not on the list')
            stack.append(_apply(stack.pop(), arguments))
        elif name == 'INST':
            arguments = self.pop_to_mark()
            stack.append(_apply(self.look_up(argument.replace(' ', '.', 1)), tuple(arguments)))
        elif name == 'OBJ':
            function, *arguments = self.pop_to_mark()
            stack.append(_apply(function, tuple(arguments)))
        elif name in ('PERSID', 'BINPERSID') and self.persistent_load is not None:
            stack.append(self.persistent_load(stack.pop() if name == 'BINPERSID' else argument))
        else:
            raise ValueError(f'instruction {name} refers to something outside the file')

    def look_up(self, name: str) -> _Global:
        if name not in self.readers:
            raise RefusedGlobal(name)
        return _Global(name, self.readers[name])

    def peek(self, count: int) -> list:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise IndexError('the stack is too short')
        return items

    def pop_to_mark(self) -> list:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise IndexError('no mark on the stack')


def _apply(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise TypeError('something is called that is not a name')
    return function.make(*arguments)


def _fill_dict(target: dict, items: list) -> dict:
    if len(items) % 2:
        raise ValueError('a key without a value')
    for key, value in zip(items[::2], items[1::2]):
        target[_checked_key(key)] = value
    return target


def _checked_key(key: Any) -> Any:
    """Keys are scalars or flat tuples of them: hashing anything deeper can exhaust the C stack."""
    for item in key if isinstance(key, tuple) else (key,):
        if not isinstance(item, (str, bytes, int, float, bool, np.generic, type(None))):
            raise TypeError(f'a {type(item).__name__} as a key')
    return key


def _build(target: Any, state: Any) -> None:
    """The BUILD instruction: hand a state to an object made before."""
    if isinstance(target, np.ndarray):
        _set_array_state(target, *state)
    elif isinstance(target, np.dtype):
        _set_byte_order(target, *state)
    elif isinstance(target, dict):
        pass  # attributes hung on a dict, such as the `_metadata` of a state_dict
    else:
        raise TypeError(f'a state for a {type(target).__name__}')


# ------------------------------------------------------------------------------------- the names it knows


def _make_set(items=(), kind=set):
    return kind(_checked_key(item) for item in items)


def _make_dict(*items, kind=dict):
    pairs = items[0] if items else ()
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return _fill_dict(kind(), [part for key, value in pairs for part in (key, value)])


def _make_easy_dict(*items):
    return _make_dict(*items, kind=dnnlib.EasyDict)


def _easy_dict_of_protocol_0(cls, base, items):
    if not isinstance(cls, _Global) or cls.make is not _make_easy_dict:
        raise RefusedGlobal(f'copyreg._reconstructor of {getattr(cls, "name", type(cls).__name__)}')
    return _make_easy_dict(items)


def _empty_bytes():
    return b''  # protocols 0 to 2 have no other word for it


def _encode(text, encoding='latin1'):
    if encoding not in ('latin1', 'latin-1'):
        raise ValueError(f'encoding {encoding!r}')
    return text.encode('latin1')


def _persistent_object(meta):
    if not isinstance(meta, dict) or meta.get('type') != 'class':
        raise ValueError('a persistent object that is not a class')
    values = meta.get('class_name'), meta.get('version'), meta.get('module_src'), meta.get('state')
    if not all(isinstance(value, kind) for value, kind in zip(values, (str, int, str, dict))):
        raise ValueError('a persistent object without class_name, version, module_src or state')
    return PersistentObject(*values)


# -- NumPy


def _dtype(code, align=False, copy=False):
    dtype = np.dtype(str(code))
    if dtype.kind not in 'biufc' or dtype.shape:
        raise RefusedGlobal(f'numpy.dtype({code!r})')
    return np.dtype(dtype, copy=True)  # a private one, since BUILD sets its byte order


def _set_byte_order(dtype, version, order, *rest):
    if version not in (3, 4) or order not in ('<', '>', '|', '=') or rest[:5] != (None, None, None, -1, -1):
        raise ValueError('a dtype that is not a plain number')
    dtype.__setstate__((3, order, None, None, None, -1, -1, 0))


def _scalar(dtype, data):
    return np.frombuffer(data, dtype=_number_dtype(dtype), count=1)[0]


def _empty_array(cls, shape, code):
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _set_array_state(array, version, shape, dtype, is_fortran, data):
    dtype = _number_dtype(dtype)
    if not isinstance(data, bytes) or math.prod(_sizes(shape)) * dtype.itemsize != len(data):
        raise ValueError(f'an array of shape {shape} that does not fit its data')
    array.__setstate__((1, tuple(shape), dtype, bool(is_fortran), data))


def _array_from_buffer(data, dtype, shape, order):
    return np.frombuffer(bytes(data), dtype=_number_dtype(dtype)).reshape(_sizes(shape), order=str(order)).copy()


def _number_dtype(dtype):
    if not isinstance(dtype, np.dtype):
        raise TypeError('an array without dtype')
    return dtype


def _sizes(shape):
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape) or len(shape) > 32:
        raise ValueError(f'a shape {shape!r}')
    return tuple(shape)


# -- PyTorch

_STORAGE_DTYPES = {
    'FloatStorage': torch.float32, 'DoubleStorage': torch.float64, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
}  # fmt: skip


def _not_callable(*_):
    raise TypeError('a storage type is called')


_STORAGE_READERS = {f'torch.{name}': _not_callable for name in _STORAGE_DTYPES}
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before its zip format; storages inside pickles still use it
_STORAGE_PROTOCOL = 1001


def _storage(data):
    """One-dimensional tensor from what `torch.save(storage)` wrote: five pickles, then sizes and raw values."""
    file = io.BytesIO(data)
    described = {}  # key → (dtype, number of elements)

    def describe(reference):
        kind, storage_type, key, _location, count, *_view = reference
        name = storage_type.name.removeprefix('torch.')
        if kind != 'storage' or type(count) is not int or _view not in ([], [None]):
            raise ValueError('a storage in an unknown layout')
        described[str(key)] = _STORAGE_DTYPES[name], count
        return str(key)

    magic, protocol, system = (_Machine(file, {}).run() for _ in range(3))
    if magic != _STORAGE_MAGIC or protocol != _STORAGE_PROTOCOL or not system.get('little_endian', True):
        raise ValueError('a storage in an unknown layout')
    result_key = _Machine(file, _STORAGE_READERS, persistent_load=describe).run()
    keys = _Machine(file, {}).run()
    if keys != [result_key] or result_key not in described:
        raise ValueError('a storage in an unknown layout')

    dtype, count = described[result_key]
    written_count = struct.unpack('<q', file.read(8))[0]
    values = bytearray(file.read())
    if count != written_count or len(values) != count * dtype.itemsize:
        raise ValueError(f'a storage of {count} values that holds {len(values)} bytes')
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(storage, offset, size, stride, requires_grad=False, backward_hooks=None, metadata=None):
    size, stride = _sizes(size), _sizes(stride)
    if not isinstance(storage, torch.Tensor) or math.prod(size) > max(storage.numel(), 1):
        raise ValueError(f'a tensor of shape {size} that does not fit its storage')
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data, requires_grad=True, backward_hooks=None, state=None):
    if not isinstance(data, torch.Tensor):
        raise TypeError('a parameter that is no tensor')
    return data


def _size(items=()):
    return torch.Size(_sizes(items))


READERS: dict[str, Callable] = {
    'collections.OrderedDict': lambda *items: _make_dict(*items, kind=collections.OrderedDict),
    'dnnlib.util.EasyDict': _make_easy_dict,
    'dnnlib.EasyDict': _make_easy_dict,
    'copyreg._reconstructor': _easy_dict_of_protocol_0,
    'copy_reg._reconstructor': _easy_dict_of_protocol_0,
    'builtins.dict': _make_dict,
    '__builtin__.dict': _make_dict,
    'builtins.set': _make_set,
    '__builtin__.set': _make_set,
    'builtins.frozenset': lambda items=(): _make_set(items, kind=frozenset),
    '__builtin__.frozenset': lambda items=(): _make_set(items, kind=frozenset),
    '__builtin__.bytes': _empty_bytes,
    '_codecs.encode': _encode,
    'torch_utils.persistence._reconstruct_persistent_obj': _persistent_object,
    'numpy.dtype': _dtype,
    'numpy.ndarray': _not_callable,
    **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray._reconstruct': _empty_array for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': _array_from_buffer for core in ('core', '_core')},
    'torch.storage._load_from_bytes': _storage,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': lambda data, grad, hooks, state=None: _parameter(data),
    'torch.Size': _size,
}
"""Everything a pickle may name, and what is made of it."""
