"""Instructions of pickles, to make files by hand. Each function returns the bytes of one or more instructions."""

from __future__ import annotations

import pickle
import struct


def named(module: str, name: str) -> bytes:
    """Push what a name stands for."""
    return f'c{module}\n{name}\n'.encode()


def text(value: str) -> bytes:
    """Push a text."""
    raw = value.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def raw_bytes(raw: bytes) -> bytes:
    """Push bytes."""
    return b'B' + struct.pack('<I', len(raw)) + raw


def dict_of(**items: bytes) -> bytes:
    """Push a dict."""
    return b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def integer(value: int) -> bytes:
    """Push an integer of any size."""
    raw = pickle.encode_long(value)
    return b'\x8b' + struct.pack('<I', len(raw)) + raw


def number(value: float) -> bytes:
    """Push a floating-point number."""
    return b'G' + struct.pack('>d', value)


def storage_bytes(count: int, values: bytes, inner: bytes = b'') -> bytes:
    """Return the argument of torch.storage._load_from_bytes, with a claimed number of elements."""
    texts = text('storage') + named('torch', 'FloatStorage') + text('0') + text('cpu')
    reference = b'(' + texts + integer(count) + b'Nt'
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({'little_endian': True}, 2)]
    described = inner or b'\x80\x02' + reference + b'Q.'
    return b''.join(head) + described + pickle.dumps(['0'], 2) + struct.pack('<q', count) + values


def load_from(raw: bytes) -> bytes:
    """Push a storage of PyTorch."""
    return named('torch.storage', '_load_from_bytes') + raw_bytes(raw) + b'\x85R'


def put(slot: int) -> bytes:
    """Return the instructions that move the top of the stack to a place of the memo."""
    return b'r' + struct.pack('<I', slot) + b'0'


def get(slot: int) -> bytes:
    """Push what is at a place of the memo."""
    return b'j' + struct.pack('<I', slot)


def dtype_of(code: str) -> bytes:
    """Push a dtype of NumPy."""
    return named('numpy', 'dtype') + text(code) + b'\x89\x88\x87R'


def scalar(code: str, raw: bytes) -> bytes:
    """Push a scalar of NumPy."""
    return named('numpy.core.multiarray', 'scalar') + dtype_of(code) + raw_bytes(raw) + b'\x86R'


def array(dtype: bytes, count: int, raw: bytes) -> bytes:
    """Push an array of NumPy with one dimension."""
    start = named('numpy.core.multiarray', '_reconstruct') + named('numpy', 'ndarray') + b'K\0\x85C\1b\x87R'
    return start + b'(K\1' + integer(count) + b'\x85' + dtype + b'\x89' + raw_bytes(raw) + b'tb'


def long_double(power: int) -> bytes:
    """Return the bytes of 2 ** power as a long double of x86 processors, in memory of 16 bytes."""
    return struct.pack('<QH6x', 1 << 63, 16383 + power)
