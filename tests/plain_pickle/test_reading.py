"""Pickles of plain data and arrays, also those of Python 2, and what no reader may do with them."""

import pickle
import struct
import time

import numpy as np
import pytest

from plain_pickle import reading
from plain_pickle.machine import RefusedGlobal

RECONSTRUCT = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R'


def dtype(code):
    return b'cnumpy\ndtype\nU' + bytes([len(code)]) + code.encode() + b'K\0K\1\x87R'


def of_python_2(array, protocol=2):
    """Pickle an array as Python 2 does: its values are a byte string."""
    raw = array.tobytes()
    if protocol:
        values = b'T' + struct.pack('<I', len(raw)) + raw
    else:
        values = b"S'" + b''.join(b'\\x%02x' % byte for byte in raw) + b"'\n"
    shape = b'(' + b''.join(b'J' + struct.pack('<i', size) for size in array.shape) + b't'
    code = dtype(array.dtype.str[1:]) + b'(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb'
    return RECONSTRUCT + b'(K\1' + shape + code + b'\x89' + values + b'tb'


@pytest.mark.parametrize('protocol', [0, 2])
def test_arrays_and_text_of_python_2(protocol):
    array = np.arange(256, dtype=np.uint8).reshape(2, 128)
    content = b'(dU\4data' + of_python_2(array, protocol) + b"sS'\\xe4'\nU\1\xe4s."
    back = reading.loads(content)
    np.testing.assert_array_equal(back['data'], array)
    assert back['ä'] == 'ä'
    expected = pickle.loads(content, encoding='latin1')
    np.testing.assert_array_equal(expected['data'], array)


def test_scalar_of_python_2():
    content = b'cnumpy.core.multiarray\nscalar\n' + dtype('f8') + b'U\x08' + struct.pack('<d', 1.5) + b'\x86R.'
    assert reading.loads(content) == 1.5


@pytest.mark.parametrize('code', ['O', 'O8', '|O', 'V8', 'S8', 'U2', 'M8', 'm8', 'f16', 'c32', 'g', 'f4,O', '(2,)f4'])
def test_only_plain_numbers_of_at_most_64_bits(code):
    with pytest.raises(RefusedGlobal, match='numpy.dtype'):
        reading.loads(dtype(code) + b'.')


@pytest.mark.parametrize(
    'state',
    [
        b'(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft',  # flags of an array of objects
        b'(K\3U\1|N(U\1adtNNK\x08K\x08K\0t',
        b'(K\3U\1|(' + dtype('u1') + b'K\x08\x85tNNK\x08K\x08K\0t',
        b'}',
    ],
)
def test_a_dtype_cannot_become_one_of_objects(state):
    content = RECONSTRUCT + b'(K\1K\1\x85' + dtype('u8') + state + b'b\x89C\x08' + b'A' * 8 + b'tb.'
    try:
        array = reading.loads(content)
    except pickle.UnpicklingError:
        return
    assert array.dtype.kind == 'u'  # the flags are ignored


def test_memory_does_not_follow_the_numbers_of_memo_places():
    content = b'N' + b''.join(b'r' + struct.pack('<I', 2**32 - 1 - number) for number in range(100)) + b'.'
    started = time.perf_counter()
    assert reading.loads(content) is None  # Python's own machine would allocate an array of this length
    assert time.perf_counter() - started < 1


def test_keys_that_would_all_have_the_same_hash_or_take_long_to_compare():
    scalar = b'cnumpy.core.multiarray\nscalar\n'
    for code, raw in (('f4', struct.pack('<f', float('nan'))), ('f8', struct.pack('<d', float('nan')))):
        with pytest.raises(pickle.UnpicklingError, match='not a number'):
            reading.loads(b'}' + scalar + dtype(code) + b'U' + bytes([len(raw)]) + raw + b'\x86RNs.')
    for key in ('x' * 20_000, b'x' * 20_000):
        with pytest.raises(pickle.UnpicklingError, match='a key of 20000 characters'):
            reading.loads(pickle.dumps({key: 1}))
    assert reading.loads(pickle.dumps({np.float32(1.5): 1, np.int8(3): 2, 2.5: 3})) == {1.5: 1, 3: 2, 2.5: 3}


@pytest.mark.parametrize('data', [dict.fromkeys(range(20_000)), set(range(20_000)), frozenset(range(20_000))], ids=type)
def test_numbers_as_keys_are_few(data):
    """Their hashes can be chosen so that each has to be compared with all others."""
    with pytest.raises(pickle.UnpicklingError, match='more than 10000 keys that are not text'):
        reading.loads(pickle.dumps(data))
    texts = type(data)(dict.fromkeys(map(str, data)))
    assert reading.loads(pickle.dumps(texts)) == texts
