"""Reads pickles without running anything they name.

A pickle is a program for a small stack machine, and Python's own machine lets that program import and call whatever it
likes. The one below knows the same instructions but has no way to import: a global is a key into a table of readers
written here, which make numbers, containers, arrays and tensors. Everything else is refused by name.

Persistent objects (see `persistence`) come back as `PersistentObject`: class name, source text, state. Nothing is made
of them here; that is for `legacy`, which knows the classes.

Memory and time stay within a small multiple of the file and of MAX_INSTRUCTIONS: arrays and tensors are views of bytes
that the file really holds, and an instruction of two bytes cannot have megabytes copied again and again (`_Budget`).
Numbers and texts of the file are quoted in errors only where their size is known to be small.
"""

import collections
import io
import math
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.text import excerpt

MAX_INSTRUCTIONS = 1_000_000
"""A pickle of StyleGAN2 at 1024² (G, D, G_ema) has 66,000; each can cost a few hundred bytes of memory."""

_COPIED_BYTES_PER_BYTE = 4  # what readers may handle in all, for each byte of the file
_COPIED_BYTES_AT_LEAST = 1 << 20
_BYTES_PER_ITEM = 256  # of a container that is copied
_LARGEST_MEMO_INDEX = 2**32 - 1
_MOST_EMPTY_ROWS = 1 << 16  # of an array that holds nothing


class RefusedGlobal(pickle.UnpicklingError):
    """The pickle names something that is not on the list. `name` is what it names."""

    def __init__(self, name: str):
        super().__init__(f'it names {name}, which is not on the list of what may be read')
        self.name = name


class _Budget:
    """What the readers may still handle, in bytes and items, and how many instructions may still follow."""

    def __init__(self, file_size: int):
        self.copied = _COPIED_BYTES_PER_BYTE * file_size + _COPIED_BYTES_AT_LEAST
        self.instructions = MAX_INSTRUCTIONS

    def spend_for(self, arguments: Any) -> None:
        """Before `arguments` are handed to a reader, whose work is in proportion to their size."""
        self.copied -= _length(arguments)
        if isinstance(arguments, tuple):
            self.copied -= sum(map(_length, arguments))
        if self.copied < 0:
            raise ValueError('it asks for far more memory than it has bytes')

    def spend_instruction(self) -> None:
        self.instructions -= 1
        if self.instructions < 0:
            raise ValueError(f'it has more than {MAX_INSTRUCTIONS:,} instructions')


def _length(value: Any) -> int:
    if isinstance(value, (list, dict, set, frozenset)):
        return _BYTES_PER_ITEM * len(value)
    return len(value) if isinstance(value, (str, bytes, bytearray, tuple)) else 1


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
    machine = _Machine(io.BytesIO(data), READERS | (readers or {}), _Budget(len(data)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # of odd backslashes in the texts of old protocols
        return machine.run()


# ------------------------------------------------------------------------------------------- the machine

_MARK = object()
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RuntimeError,
           struct.error)  # fmt: skip

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
    def __init__(
        self, file: io.BytesIO, readers: dict[str, Any], budget: _Budget, persistent_load: Callable | None = None
    ):
        self.file = file
        self.readers = readers
        self.budget = budget
        self.persistent_load = persistent_load
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute up to STOP; the file is left standing right after it."""
        try:
            for opcode, argument, _ in pickletools.genops(self.file):
                self.budget.spend_instruction()
                if opcode.name == 'STOP':
                    return self.result()
                self.step(opcode.name, argument)
        except _DAMAGE as error:
            reason = 'it refers to something that is not in it' if isinstance(error, KeyError) else excerpt(error)
            raise pickle.UnpicklingError(f'damaged, or not a pickle ({reason})') from error
        raise pickle.UnpicklingError('damaged: it ends without STOP')

    def result(self) -> Any:
        result = self.stack.pop()
        if result is _MARK:
            raise IndexError('the stack is empty')
        return result

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
            index = len(self.memo) if name == 'MEMOIZE' else argument
            if not 0 <= index <= _LARGEST_MEMO_INDEX:
                raise IndexError(f'{name} beyond what a memo can have')
            self.memo[index] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(self.memo[argument])
        elif name == 'BUILD':
            state = stack.pop()
            self.budget.spend_for(state)
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
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise TypeError('a name that is no text')
            stack.append(self.look_up(f'{module}.{attribute}'))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments = stack.pop()
            stack.append(self.apply(stack.pop(), arguments))
        elif name == 'NEWOBJ_EX':
            keywords, arguments = stack.pop(), stack.pop()
            if keywords:
                raise TypeError('objects made with keywords are not on the list')
            stack.append(self.apply(stack.pop(), arguments))
        elif name == 'INST':
            arguments = self.pop_to_mark()
            stack.append(self.apply(self.look_up(argument.replace(' ', '.', 1)), tuple(arguments)))
        elif name == 'OBJ':
            function, *arguments = self.pop_to_mark()
            stack.append(self.apply(function, tuple(arguments)))
        elif name in ('PERSID', 'BINPERSID') and self.persistent_load is not None:
            stack.append(self.persistent_load(stack.pop() if name == 'BINPERSID' else argument))
        else:
            raise ValueError(f'instruction {name} refers to something outside the file')

    def look_up(self, name: str) -> Any:
        """What stands for a name: a constant itself, a function as `_Global`."""
        if name not in self.readers:
            raise RefusedGlobal(excerpt(name))
        reader = self.readers[name]
        return _Global(name, reader) if callable(reader) else reader

    def apply(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise TypeError('something is called that is not a name')
        self.budget.spend_for(arguments)
        if function.make is _storage:
            return _storage(*arguments, budget=self.budget)
        return function.make(*arguments)

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


def _fill_dict(target: dict, items: list) -> dict:
    if len(items) % 2:
        raise ValueError('a key without a value')
    for key, value in zip(items[::2], items[1::2]):
        target[_checked_key(key)] = value
    return target


def _checked_key(key: Any) -> Any:
    """Keys are scalars: hashing tuples can exhaust the C stack, and hashes of huge integers can be made to collide."""
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise TypeError('an integer of more than 64 bits as a key')
    if not isinstance(key, (str, bytes, int, float, bool, np.integer, np.floating, np.bool_, type(None))):
        raise TypeError(f'a {type(key).__name__} as a key')
    return key


def _build(target: Any, state: Any) -> None:
    """The BUILD instruction: hand a state to an object made before."""
    if isinstance(target, (np.ndarray, np.dtype)) and not (isinstance(state, tuple) and len(state) <= 10):
        raise TypeError('the state of an array that is none')
    if isinstance(target, np.ndarray):
        _set_array_state(target, *state)
    elif isinstance(target, np.dtype):
        _set_byte_order(target, *state)
    elif isinstance(target, PersistentObject) and isinstance(state, dict):
        target.state.update(state)
    elif isinstance(target, dict):
        pass  # attributes hung on a dict, such as the `_metadata` of a state_dict
    else:
        raise TypeError(f'a state for a {type(target).__name__}')


# ------------------------------------------------------------------------------------- the names it knows


def _not_callable(*_):
    raise TypeError('a type is called that only stands for itself')


def _checked_items(items: Any) -> Any:
    """What a container may be made of: something whose length is known, and has been paid for."""
    if not isinstance(items, (list, tuple, dict, set, frozenset)):
        raise TypeError(f'a container made of a {type(items).__name__}')
    return items


def _make_set(items=(), kind=set):
    return kind(_checked_key(item) for item in _checked_items(items))


def _make_dict(*items, kind=dict):
    pairs = items[0] if items else ()
    pairs = pairs.items() if isinstance(pairs, dict) else _checked_items(pairs)
    return _fill_dict(kind(), [part for key, value in pairs for part in (key, value)])


def _make_easy_dict(*items):
    return _make_dict(*items, kind=dnnlib.EasyDict)


def _object_of_protocol_0(cls, base, items=None):
    """An object of a class on the list as protocols 0 and 1 write it: made of its base class, filled by BUILD."""
    if not isinstance(cls, _Global) or not isinstance(base, _Global):
        raise TypeError('an object of something that is not a name')
    return cls.make() if items is None else cls.make(items)


def _empty_bytes():
    return b''  # protocols 0 to 2 have no other word for it


def _encode(text, encoding='latin1'):
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ValueError('a text in an unknown encoding')
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
    code = code.decode('latin1') if isinstance(code, bytes) else code
    if not isinstance(code, str) or re.fullmatch(r'[<>=|]?[biufc]\d{1,2}', code) is None:
        raise RefusedGlobal(f'numpy.dtype({excerpt(code, 20)!r})' if isinstance(code, str) else 'numpy.dtype')
    return np.dtype(code, copy=True)  # a private one, since BUILD sets its byte order


def _set_byte_order(dtype, version, order, *rest):
    if version not in (3, 4) or order not in ('<', '>', '|', '=') or rest[:5] != (None, None, None, -1, -1):
        raise ValueError('a dtype that is not a plain number')
    dtype.__setstate__((3, order, None, None, None, -1, -1, 0))


def _scalar(dtype, data):
    return np.frombuffer(data, dtype=_number_dtype(dtype), count=1)[0]


def _empty_array(cls, shape, code):
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _set_array_state(array, version, shape, dtype, is_fortran, data):
    dtype, shape = _number_dtype(dtype), _sizes(shape)
    if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f'an array of shape {shape} that does not fit its data')
    array.__setstate__((1, shape, dtype, is_fortran is True or is_fortran == 1, data))


def _array_from_buffer(data, dtype, shape, order):
    if not isinstance(data, (bytes, bytearray)) or order not in ('C', 'F'):
        raise TypeError('an array in an unknown layout')
    return np.frombuffer(data, dtype=_number_dtype(dtype)).reshape(_sizes(shape), order=order).copy()


def _number_dtype(dtype):
    if not isinstance(dtype, np.dtype):
        raise TypeError('an array without dtype')
    return dtype


def _sizes(shape):
    if not isinstance(shape, (tuple, list)) or len(shape) > 32:
        raise TypeError('a shape that is no list of sizes')
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise ValueError('a shape with sizes that are none')
    if 0 in shape and math.prod(max(size, 1) for size in shape) > _MOST_EMPTY_ROWS:
        raise ValueError('an array of very many rows with nothing in them')
    return tuple(shape)


# -- PyTorch

_STORAGE_DTYPES = {
    'FloatStorage': torch.float32, 'DoubleStorage': torch.float64, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
}  # fmt: skip


_STORAGE_READERS = {f'torch.{name}': _not_callable for name in _STORAGE_DTYPES}
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before its zip format; storages inside pickles still use it
_STORAGE_PROTOCOL = 1001


def _storage(data, budget):
    """One-dimensional tensor from what `torch.save(storage)` wrote: five pickles, then sizes and raw values."""
    if not isinstance(data, bytes):
        raise TypeError('a storage that is no bytes')
    file = io.BytesIO(data)
    described = {}  # key → (dtype, number of elements)

    def describe(reference):
        if not isinstance(reference, tuple) or len(reference) > 6:
            raise ValueError('a storage in an unknown layout')
        kind, storage_type, key, _location, count, *view = reference
        if kind != 'storage' or type(count) is not int or not isinstance(key, str) or view not in ([], [None]):
            raise ValueError('a storage in an unknown layout')
        described[key] = _STORAGE_DTYPES[storage_type.name.removeprefix('torch.')], count
        return key

    magic, protocol, system = (_Machine(file, {}, budget).run() for _ in range(3))
    if magic != _STORAGE_MAGIC or protocol != _STORAGE_PROTOCOL or not system.get('little_endian', True):
        raise ValueError('a storage in an unknown layout')
    result_key = _Machine(file, _STORAGE_READERS, budget, persistent_load=describe).run()
    keys = _Machine(file, {}, budget).run()
    if not isinstance(result_key, str) or keys != [result_key] or result_key not in described:
        raise ValueError('a storage in an unknown layout')

    dtype, count = described[result_key]
    written_count = struct.unpack('<q', file.read(8))[0]
    values = bytearray(file.read())
    if count != written_count or len(values) != count * dtype.itemsize:
        raise ValueError(f'a storage of {count} values that holds {len(values)} bytes')
    return torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(storage, offset, size, stride, requires_grad=False, backward_hooks=None, metadata=None):
    size, stride = _sizes(size), _sizes(stride)
    if not isinstance(storage, torch.Tensor) or type(offset) is not int or math.prod(size) > max(storage.numel(), 1):
        raise ValueError(f'a tensor of shape {size} that does not fit its storage')
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data, requires_grad=True, backward_hooks=None, state=None):
    if not isinstance(data, torch.Tensor):
        raise TypeError('a parameter that is no tensor')
    return data


def _size(items=()):
    return torch.Size(_sizes(items))


def _device(kind, index=None):
    if kind not in ('cpu', 'cuda', 'mps', 'meta') or not (index is None or type(index) is int):
        raise ValueError('a device of an unknown kind')
    return torch.device(kind, index)


# -- Plain Python, as it hangs on objects of forks


def _bytearray(data=b''):
    if not isinstance(data, bytes):
        raise TypeError('a bytearray of something else')
    return bytearray(data)


def _complex(real, imaginary):
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise TypeError('a complex number of something else')
    return complex(real, imaginary)


def _range(*limits, kind=range):
    if not all(limit is None or type(limit) is int for limit in limits):
        raise TypeError(f'a {kind.__name__} of something else')
    return kind(*limits)


def _path(*parts):
    if not all(isinstance(part, str) for part in parts):
        raise TypeError('a path of something else')
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
    'torch.storage._load_from_bytes': _storage,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': lambda data, grad, hooks, state=None: _parameter(data),
    'torch.Size': _size,
    'torch.device': _device,
    **{str(dtype): dtype for dtype in _STORAGE_DTYPES.values()},
}
"""Everything a pickle may name, and what is made of it: a function of the arguments, or a constant."""
