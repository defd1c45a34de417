"""The names that a pickle of plain data may contain, and the functions that create the values they stand for.

The values are numbers, text, containers and arrays. Arrays are views of bytes in the file, or copies that are paid for.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from typing import Any

import numpy as np

import dnnlib
from dnnlib.text import excerpt
from plain_pickle.machine import (
    Global,
    RefusedGlobal,
    checked_sizes,
    fill_dict,
    fill_set,
    new_object,
    number_dtype,
    raw_bytes,
)


def not_callable(*_: Any) -> Any:
    """Refuse a call to a type that a pickle may name, but that only stands for itself."""
    raise TypeError('a call to a type that only stands for itself')


def _checked_items(items: Any) -> Any:
    """Return the items of a container, whose length is known and has been paid for."""
    if not isinstance(items, (list, tuple, dict, set, frozenset)):
        raise TypeError(f'a container created from a {type(items).__name__}')
    return items


def _make_set(items: Any = ()) -> set[Any]:
    return fill_set(set(), _checked_items(items))


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
    return new_object(cls, () if items is None else (items,))


def _empty_bytes() -> bytes:
    return b''  # the only way to write it in protocols 0 to 2


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ValueError('text in an unknown encoding')
    return text.encode('latin1')


# ---------------------------------------------------------------------------------------------------------------------
# NumPy


_NUMBER_CODE = r'[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)'  # neither objects nor numbers that float64 cannot hold


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    code = code.decode('latin1') if isinstance(code, bytes) else code
    if not isinstance(code, str) or re.fullmatch(_NUMBER_CODE, code) is None:
        raise RefusedGlobal(f'numpy.dtype({excerpt(code, 20)!r})' if isinstance(code, str) else 'numpy.dtype')
    return np.dtype(code, copy=True)  # not a shared one, because BUILD sets its byte order


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(raw_bytes(data), dtype=number_dtype(dtype), count=1)[0]


def _empty_array(cls: Any, shape: Any, code: Any) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or order not in ('C', 'F'):
        raise TypeError('an array in an unknown layout')
    return np.frombuffer(data, dtype=number_dtype(dtype)).reshape(checked_sizes(shape), order=order).copy()


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
            'frozenset': lambda items=(): frozenset(_make_set(items)),
            'bytearray': _bytearray,
            'complex': _complex,
            'range': _range,
            'xrange': _range,
            'slice': lambda *limits: _range(*limits, kind=slice),
            **dict.fromkeys(('object', 'int', 'float', 'list', 'tuple', 'str'), not_callable),
        }.items()
    },
    **{
        f'{module}.{kind}': _path
        for module in ('pathlib', 'pathlib._local')  # the latter from Python 3.13
        for kind in ('Path', 'PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')
    },
    '__builtin__.bytes': _empty_bytes,
    '_codecs.encode': _encode,
    'numpy.dtype': _dtype,
    'numpy.ndarray': not_callable,
    **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray._reconstruct': _empty_array for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': _array_from_buffer for core in ('core', '_core')},
}
"""Everything that a pickle of plain data may name: a function of the arguments, or a constant."""
