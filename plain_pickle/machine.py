"""The machine that interprets pickles without importing or calling anything.

It executes the same instructions as Python's own unpickler, but a global is only a key into a table of readers that the
caller provides. `plain_pickle.readers` contains the table for plain data and arrays, `plain_pickle.reading` the
interface; `network_files.safe_pickle` adds tensors and networks.
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
import pickletools
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnlib.text import excerpt

MAX_INSTRUCTIONS = 1_000_000
"""A pickle of StyleGAN2 at 1024² (G, D, G_ema) has 66,000; each can cost a few hundred bytes of memory."""

_COPIED_BYTES_PER_BYTE = 4  # that readers may process, for each byte of the file
_MIN_COPIED_BYTES = 1 << 20  # that readers may process in any file
_BYTES_PER_ITEM = 256  # of copied containers
_MAX_MEMO_INDEX = 2**32 - 1
_MAX_NAME_LENGTH = 200  # that is kept of a foreign name
_MAX_FOREIGN_NAMES = 10_000  # in one pickle; each is named once for all objects
_MODULES_OF_PYTHON = {*sys.stdlib_module_names, '__builtin__'}
_MAX_EMPTY_ROWS = 1 << 16  # of an array without elements
_MAX_KEY_LENGTH = 10_000
_MAX_NUMBERS_AS_KEYS = 10_000  # of one dict or set
_KEY_TYPES = (str, bytes, int, float, bool, np.integer, np.float16, np.float32, np.float64, np.bool_, type(None))


class RefusedGlobal(pickle.UnpicklingError):
    """A pickle that contains a name which is not in the tables; `name` is that name."""

    def __init__(self, name: str):
        super().__init__(f'it names {name}, which is not on the list of names that may be read')
        self.name = name


class Budget:
    """The bytes and items that readers may still process, and the number of instructions that may still follow."""

    def __init__(self, file_size: int):
        self.copied = _COPIED_BYTES_PER_BYTE * file_size + _MIN_COPIED_BYTES
        self.instructions = MAX_INSTRUCTIONS

    def spend_for(self, arguments: Any) -> None:
        """Pay for `arguments` before they are passed to a reader, whose work is proportional to their size."""
        self.copied -= _length(arguments)
        if isinstance(arguments, tuple):
            self.copied -= sum(map(_length, arguments))
        if self.copied < 0:
            raise ValueError('it needs far more memory than it has bytes')

    def spend_instruction(self) -> None:
        """Pay for one instruction."""
        self.instructions -= 1
        if self.instructions < 0:
            raise ValueError(f'it has more than {MAX_INSTRUCTIONS:,} instructions')


def _length(value: Any) -> int:
    if isinstance(value, (list, dict, set, frozenset)):
        return _BYTES_PER_ITEM * len(value)
    return len(value) if isinstance(value, (str, bytes, bytearray, tuple)) else 1


class ObjectWithState:
    """An object that a reader creates and whose attributes BUILD adds to `state`."""

    state: dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Machine

_MARK = object()
_ERRORS_OF_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
)

_OPCODES = {opcode.code.encode('latin1'): opcode for opcode in pickletools.opcodes}
_PUSH_ARGUMENT = frozenset(
    'INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES '
    'SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8'.split()
)
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'MARK': lambda: _MARK,
    'EMPTY_LIST': list,
    'EMPTY_TUPLE': tuple,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
}
_FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    'LIST': list,
    'TUPLE': tuple,
    'DICT': lambda items: fill_dict({}, items),
    'FROZENSET': lambda items: frozenset(fill_set(set(), items)),
}
_FROM_TOP = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


@dataclass(frozen=True)
class BudgetedReader:
    """A reader that runs further machines, and therefore receives the budget of its pickle."""

    read: Callable[..., Any]

    def __call__(self, *arguments: Any, budget: Budget) -> Any:
        return self.read(*arguments, budget=budget)


class Global:
    """A name in a pickle; immutable, so that no instruction can change what the name stands for."""

    __slots__ = ('name', 'make')

    name: str
    make: Callable[..., Any]

    def __init__(self, name: str, make: Callable[..., Any]):
        object.__setattr__(self, 'name', name)
        object.__setattr__(self, 'make', make)

    def __setattr__(self, key: str, value: Any) -> None:
        raise TypeError(f'{self.name} cannot be changed')


class ForeignName(Global):
    """A name that is in no table."""

    __slots__ = ()

    def __init__(self, name: str):
        super().__init__(name, ForeignObject)

    def call(self) -> ForeignObject:
        """Return an object if the name looks like a class of another project.

        Raises:
            RefusedGlobal: It looks like a function, or is Python's own. It would not be called, but such a file has
                something in mind.
        """
        is_class = self.name.rpartition('.')[2][:1].isupper()
        if not is_class or self.name.partition('.')[0] in _MODULES_OF_PYTHON:
            raise RefusedGlobal(excerpt(self.name))
        return ForeignObject(self.name)


class ForeignObject:
    """An object of a class that is in no table. What the pickle contains about it is not kept."""

    __slots__ = ('class_name',)

    def __init__(self, class_name: str):
        self.class_name = class_name


def new_object(cls: Global, arguments: tuple[Any, ...]) -> Any:
    """Create an object without the constructor of its class, as `cls.__new__` does."""
    return ForeignObject(cls.name) if isinstance(cls, ForeignName) else cls.make(*arguments)


class Machine:
    """Interpreter of one pickle.

    Args:
        file: The pickle; its position is right after it when `run` returns.
        readers: Functions or constants by dotted name.
        budget: Limits of memory and time.
        persistent_load: Function for persistent IDs, or None if they are not allowed.
        keep_foreign: Represent objects of classes that are not in `readers` as `ForeignObject`, instead of refusing
            the pickle.
    """

    def __init__(
        self,
        file: io.BytesIO,
        readers: dict[str, Any],
        budget: Budget,
        persistent_load: Callable[[Any], Any] | None = None,
        keep_foreign: bool = False,
    ):
        self.file = file
        self.readers = readers
        self.budget = budget
        self.persistent_load = persistent_load
        self.foreign_names_left = _MAX_FOREIGN_NAMES if keep_foreign else 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute the instructions up to STOP, and return the result."""
        try:
            for name, argument in _instructions(self.file):
                self.budget.spend_instruction()
                if name == 'STOP':
                    return self._result()
                self._step(name, argument)
        except _ERRORS_OF_DAMAGE as error:
            reason = 'it refers to a value that it does not contain' if isinstance(error, KeyError) else excerpt(error)
            raise pickle.UnpicklingError(f'damaged, or not a pickle ({reason})') from error
        raise pickle.UnpicklingError('damaged: it ends without STOP')

    def _result(self) -> Any:
        result = self.stack.pop()
        if result is _MARK:
            raise IndexError('the stack is empty')
        return result

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in _FROM_MARK:
            stack.append(_FROM_MARK[name](self._pop_to_mark()))
        elif name in _FROM_TOP:
            stack[-_FROM_TOP[name] :] = [tuple(self._peek(_FROM_TOP[name]))]
        elif name in ('MEMOIZE', 'PUT', 'BINPUT', 'LONG_BINPUT'):
            index = len(self.memo) if name == 'MEMOIZE' else argument
            if not 0 <= index <= _MAX_MEMO_INDEX:
                raise IndexError(f'{name} with an invalid index')
            self.memo[index] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(self.memo[argument])
        elif name == 'BUILD':
            state = stack.pop()
            if not isinstance(stack[-1], ForeignObject):  # whose state is not kept
                self.budget.spend_for(state)
                _build(stack[-1], state)
        elif name == 'POP':
            stack.pop()
        elif name == 'POP_MARK':
            self._pop_to_mark()
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name not in ('PROTO', 'FRAME'):
            if not self._fill(name):
                self._call(name, argument)

    def _fill(self, name: str) -> bool:
        """Execute an instruction that adds items to a container; return False for any other instruction."""
        if name in ('APPEND', 'SETITEM'):
            count = 1 if name == 'APPEND' else 2
            items = self._peek(count)
            del self.stack[-count:]
        elif name in ('APPENDS', 'SETITEMS', 'ADDITEMS'):
            items = self._pop_to_mark()
        else:
            return False
        target = self.stack[-1]
        if name.startswith('APPEND') and isinstance(target, list):
            target.extend(items)
        elif name.startswith('SETITEM') and isinstance(target, dict):
            fill_dict(target, items)
        elif name == 'ADDITEMS' and isinstance(target, set):
            fill_set(target, items)
        elif isinstance(target, ForeignObject):
            pass
        else:
            raise TypeError(f'{name} on a {type(target).__name__}')
        return True

    def _call(self, name: str, argument: Any) -> None:
        """Execute an instruction that looks up a name or calls one."""
        stack = self.stack
        if name == 'GLOBAL':
            stack.append(self._look_up(argument.replace(' ', '.', 1)))
        elif name == 'STACK_GLOBAL':
            module, attribute = stack.pop(-2), stack.pop()
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise TypeError('a name that is not a string')
            self.budget.spend_for((module, attribute))
            stack.append(self._look_up(f'{module}.{attribute}'))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments = stack.pop()
            stack.append(self._apply(stack.pop(), arguments, is_new=name == 'NEWOBJ'))
        elif name == 'NEWOBJ_EX':
            keywords, arguments = stack.pop(), stack.pop()
            if keywords:
                raise TypeError('objects with keyword arguments are not allowed')
            stack.append(self._apply(stack.pop(), arguments))
        elif name == 'INST':
            arguments = self._pop_to_mark()
            stack.append(self._apply(self._look_up(argument.replace(' ', '.', 1)), tuple(arguments)))
        elif name == 'OBJ':
            function, *arguments = self._pop_to_mark()
            stack.append(self._apply(function, tuple(arguments)))
        elif name in ('PERSID', 'BINPERSID') and self.persistent_load is not None:
            stack.append(self.persistent_load(stack.pop() if name == 'BINPERSID' else argument))
        else:
            raise ValueError(f'instruction {name} refers to something outside the file')

    def _look_up(self, name: str) -> Any:
        """Return what a name stands for: a constant itself, or a function as `Global`."""
        if name not in self.readers:
            self.foreign_names_left -= 1
            if self.foreign_names_left < 0:
                raise RefusedGlobal(excerpt(name))
            return ForeignName(name[:_MAX_NAME_LENGTH])
        reader = self.readers[name]
        return Global(name, reader) if callable(reader) else reader

    def _apply(self, function: Any, arguments: Any, is_new: bool = False) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError('a call to something that is not a name')
        self.budget.spend_for(arguments)
        if isinstance(function, ForeignName):
            return new_object(function, arguments) if is_new else function.call()
        if isinstance(function.make, BudgetedReader):
            return function.make(*arguments, budget=self.budget)
        return function.make(*arguments)

    def _peek(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise IndexError('the stack is too short')
        return items

    def _pop_to_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise IndexError('no mark on the stack')


def _instructions(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each instruction.

    Unlike those of `pickletools.genops`, quoted strings may contain any byte, as the texts and arrays of Python 2 do.
    """
    while code := file.read(1):
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f'unknown instruction {code!r}')
        if opcode.name == 'STRING':
            yield opcode.name, _read_quoted(file)
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(file)


def _read_quoted(file: io.BytesIO) -> str:
    line = file.readline()
    quote = line[:1]
    if len(line) < 3 or quote not in (b'"', b"'") or line[-2:] != quote + b'\n':
        raise ValueError('a string without quotes')
    return codecs.escape_decode(line[1:-2])[0].decode('latin1')


def fill_dict(target: dict[Any, Any], items: Sequence[Any]) -> dict[Any, Any]:
    """Add alternating keys and values to a dict, and return it."""
    if len(items) % 2:
        raise ValueError('a key without a value')
    for key, value in zip(items[::2], items[1::2]):
        target[checked_key(key, target)] = value
    return target


def fill_set(target: set[Any], items: Iterable[Any]) -> set[Any]:
    """Add items to a set, and return it."""
    for item in items:
        target.add(checked_key(item, target))
    return target


def checked_key(key: Any, container: Sized) -> Any:
    """Return a short scalar key for a container.

    Hashing tuples can exhaust the C stack, hashes of numbers that float64 cannot hold can all be the same, and equal
    strings are compared whenever one is looked up. Unlike hashes of text, those of numbers are known, so that a file
    can choose numbers for which Python has to search through most of a dict; therefore a dict has few of them.
    """
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise TypeError('an integer of more than 64 bits as a key')
    if isinstance(key, (str, bytes)) and len(key) > _MAX_KEY_LENGTH:
        raise TypeError(f'a key of {len(key)} characters')
    if not isinstance(key, _KEY_TYPES):
        raise TypeError(f'a {type(key).__name__} as a key')
    if len(container) >= _MAX_NUMBERS_AS_KEYS and not isinstance(key, (str, bytes)):
        raise TypeError(f'more than {_MAX_NUMBERS_AS_KEYS} keys that are not text')
    if key != key:
        raise TypeError('a key that is not a number')
    return key


def _build(target: Any, state: Any) -> None:
    """Execute the BUILD instruction: give an object its state."""
    if isinstance(target, (np.ndarray, np.dtype)) and not (isinstance(state, tuple) and len(state) <= 10):
        raise TypeError('an invalid state for an array')
    if isinstance(target, np.ndarray):
        _set_array_state(target, *state)
    elif isinstance(target, np.dtype):
        _set_byte_order(target, *state)
    elif isinstance(target, ObjectWithState) and isinstance(state, dict):
        target.state.update(state)
    elif isinstance(target, dict):
        pass  # attributes of a dict, such as the `_metadata` of a state_dict
    else:
        raise TypeError(f'a state for a {type(target).__name__}, which has none')


# ---------------------------------------------------------------------------------------------------------------------
# States of arrays


def _set_array_state(array: Any, version: Any, shape: Any, dtype: Any, is_fortran: Any, data: Any) -> None:
    dtype, shape = number_dtype(dtype), checked_sizes(shape)
    data = raw_bytes(data)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f'an array of shape {shape} that does not match its data')
    array.__setstate__((1, shape, dtype, is_fortran is True or is_fortran == 1, data))


def _set_byte_order(dtype: Any, version: Any, order: Any, *rest: Any) -> None:
    if version not in (3, 4) or order not in ('<', '>', '|', '=') or rest[:5] != (None, None, None, -1, -1):
        raise ValueError('a dtype that is not a plain number')
    dtype.__setstate__((3, order, None, None, None, -1, -1, 0))


def number_dtype(dtype: Any) -> np.dtype:
    """Return a dtype; raise TypeError if it is something else, or its elements are not plain numbers."""
    if not isinstance(dtype, np.dtype):
        raise TypeError('an array without dtype')
    if dtype.hasobject or dtype.kind not in 'biufc' or dtype.itemsize > (16 if dtype.kind == 'c' else 8):
        raise TypeError('an array of something other than numbers of at most 64 bits')
    return dtype


def raw_bytes(data: Any) -> bytes:
    """Return the bytes of an array, which a pickle of Python 2 holds as text."""
    data = data.encode('latin1') if isinstance(data, str) else data
    if not isinstance(data, bytes):
        raise TypeError('an array whose values are not bytes')
    return data


def checked_sizes(shape: Any) -> tuple[int, ...]:
    """Return a shape; raise TypeError or ValueError if it is not one."""
    if not isinstance(shape, (tuple, list)) or len(shape) > 32:
        raise TypeError('a shape that is not a list of sizes')
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise ValueError('a shape with invalid sizes')
    if 0 in shape and math.prod(max(size, 1) for size in shape) > _MAX_EMPTY_ROWS:
        raise ValueError('an array with a very large number of empty rows')
    return tuple(shape)
