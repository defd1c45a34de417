"""The pickle reader that executes nothing: plain data, arrays and tensors, bounds of memory and time."""

import collections
import pathlib
import pickle
import time

import numpy as np
import pytest
import torch

import dnnlib
from network_files import safe_pickle


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_plain_data_equals_what_pickle_loads(protocol):
    shared = [1]
    data = {
        'numbers': [0, -1, 255, 256, 2**40, -(2**70), 1.5, float('inf'), True, False, None],
        'text': ['', 'ä', 'x' * 300, b'', b'bytes', b'b' * 300],
        'containers': [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1: 2}, {3, 4}, frozenset({5}), [shared, shared]],
        'dicts': [collections.OrderedDict(a=1, b=2), dnnlib.EasyDict(a=dnnlib.EasyDict(b=1))],
        'numpy': [np.float64(1.5), np.int32(3), np.bool_(True)],
    }
    content = pickle.dumps(data, protocol=protocol)
    back = safe_pickle.loads(content)
    assert back == data and list(map(type, back['dicts'])) == list(map(type, data['dicts']))
    assert back['containers'][-1][0] is back['containers'][-1][1]


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize('array', [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(5, dtype='>i4'),
    np.zeros([0, 3], np.uint8),
    np.array(7, dtype=np.int64),
], ids=['plain', 'fortran', 'big-endian', 'empty', 'scalar'])  # fmt: skip
def test_arrays(array, protocol):
    content = pickle.dumps(array, protocol=protocol)
    back = safe_pickle.loads(content)
    assert back.dtype == pickle.loads(content).dtype and back.shape == array.shape and np.array_equal(back, array)


@pytest.mark.parametrize('tensor', [
    torch.arange(6.0).reshape(2, 3).t(),
    torch.arange(10)[3:7],
    torch.ones(3, dtype=torch.bfloat16),
    torch.zeros(0, 4),
    torch.tensor(True),
    torch.nn.Parameter(torch.rand(2)),
], ids=['transposed', 'slice', 'bfloat16', 'empty', 'bool', 'parameter'])  # fmt: skip
def test_tensors(tensor):
    back = safe_pickle.loads(pickle.dumps(tensor))
    assert back.dtype == tensor.dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_arrays_of_objects_are_refused():
    with pytest.raises(pickle.UnpicklingError, match='dtype'):
        safe_pickle.loads(pickle.dumps(np.array([{}], dtype=object)))


def test_a_tensor_cannot_claim_more_than_the_file_contains():
    content = pickle.dumps(torch.zeros(1000))
    for old, new in ((b'M\xe8\x03\x85', b'M\xff\xff\x85'), (b'M\xe8\x03', b'M\xff\xff')):
        assert old in content
        with pytest.raises(pickle.UnpicklingError):
            safe_pickle.loads(content.replace(old, new))


def test_names_in_a_pickle_cannot_be_changed():
    """BUILD may set attributes in Python's own machine, even of functions and classes."""
    for name in ('collections\nOrderedDict', 'torch._utils\n_rebuild_parameter'):
        for state in (b"}S'name'\nI1\ns", b"N}S'name'\nI1\ns\x86"):
            content = b'\x80\x02c' + name.encode() + b'\n' + state + b'b.'
            with pytest.raises(pickle.UnpicklingError):
                safe_pickle.loads(content)
    assert collections.OrderedDict().__class__.__name__ == 'OrderedDict'


def test_types_that_forks_add_to_objects():
    data = {
        'device': torch.device('cuda', 1), 'dtype': torch.float16,
        'complex': 1 + 2j, 'range': range(1, 9, 2), 'slice': slice(None, 3), 'array': bytearray(b'abc'),
    }  # fmt: skip
    assert safe_pickle.loads(pickle.dumps(data)) == data
    default = collections.defaultdict(list, a=[1])
    assert safe_pickle.loads(pickle.dumps(default)) == {'a': [1]}
    assert safe_pickle.loads(pickle.dumps(pathlib.PurePosixPath('a/b'))) == 'a/b'
    for module in (b'pathlib', b'pathlib._local'):  # the latter as Python 3.13 writes it
        assert safe_pickle.loads(b'c%s\nPurePosixPath\n(S"a"\nS"b"\ntR.' % module) == 'a/b'


def test_readers_of_the_caller():
    content = b'cmine\nthing\nK\x05\x85R.'
    assert safe_pickle.loads(content, {'mine.thing': lambda number: number + 1}) == 6
    with pytest.raises(safe_pickle.RefusedGlobal) as caught:
        safe_pickle.loads(content)
    assert caught.value.name == 'mine.thing'


def test_names_are_quoted_only_in_part():
    with pytest.raises(safe_pickle.RefusedGlobal) as caught:
        safe_pickle.loads(b'cmine\n' + b'x' * 100_000 + b'\n.')
    assert len(str(caught.value)) < 400


def test_work_is_bounded_by_the_size_of_the_file():
    """Instructions of a few bytes pass a long list to a constructor again and again."""
    again = b'cbuiltins\nset\nh\x00\x85R0' * 50_000
    started = time.perf_counter()
    with pytest.raises(pickle.UnpicklingError, match='more memory than it has bytes'):
        safe_pickle.loads(b'](' + b'K\x01' * 100_000 + b'eq\x000' + again + b'N.')
    assert time.perf_counter() - started < 20


def test_number_of_instructions_is_bounded():
    with pytest.raises(pickle.UnpicklingError, match='more than 1,000,000 instructions'):
        safe_pickle.loads(b'N0' * 600_000 + b'N.')


@pytest.mark.parametrize('key', [(1, 2), 2**64, -(2**64)])
def test_keys_whose_hashes_could_be_chosen(key):
    with pytest.raises(pickle.UnpicklingError, match='key'):
        safe_pickle.loads(pickle.dumps({key: 1}))
