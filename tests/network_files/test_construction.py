"""What the content of one file may cost, however little of the file describes it."""

import threading
import warnings

import numpy as np
import pytest
import torch

from network_files import construction
from network_files.errors import NetworkPickleError
from network_files.plain_values import TooDeep, walk


def build_layer(allowance, args=(1, 1, False), values=1):
    tensors = {'weight': torch.ones(values, 1)}
    return construction.build('FullyConnectedLayer', args, {}, tensors, 'x.pkl: n', allowance)


def test_number_of_networks_in_a_file():
    allowance = construction.Allowance(1000)
    with pytest.raises(NetworkPickleError, match='x.pkl: n was not opened: the file contains too many networks'):
        for _ in range(100):
            build_layer(allowance)
    assert allowance.values > 900


def test_number_of_modules_is_counted_while_they_are_constructed():
    allowance = construction.Allowance(1000)
    kwargs = dict(z_dim=1, c_dim=0, w_dim=1, num_ws=1, num_layers=10**6)
    with pytest.raises(ValueError, match='too many modules'):
        construction.construct_on_meta('MappingNetwork', (), kwargs, allowance)
    assert allowance.modules == -1


def test_modules_of_other_threads_are_not_counted():
    allowance = construction.Allowance(1000)
    allowance.modules = 2

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(10))

    with construction.counting_modules(allowance):
        thread = threading.Thread(target=Slow)
        thread.start()
        thread.join()
    assert allowance.modules == 2
    torch.nn.Sequential(*(torch.nn.Identity() for _ in range(5)))
    assert allowance.modules == 2  # no longer counted after the block


@pytest.mark.parametrize('value', [2.0**63, -(2.0**1000), np.float32(1e30), np.array([1.0, 1e300]), 2**63, [[2**70]],
                                   torch.tensor([1e300], dtype=torch.float64), {'x': np.array(-1e100)}],
                         ids=str)  # fmt: skip
def test_arguments_that_would_be_integers_of_hundreds_of_bits(value):
    with pytest.raises(NetworkPickleError, match='arguments of its constructor are not usable .one is a'):
        build_layer(construction.Allowance(10), args=(1, value))


def test_odd_numbers_cause_no_warnings():
    values = [np.float16('nan'), np.float16('inf'), np.int8(-1), np.uint64(2**63 - 1), np.complex64(1j), np.bool_(1)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for value in [*values, np.array(values[:2]), float('-inf')]:
            with pytest.raises(NetworkPickleError):
                build_layer(construction.Allowance(10), args=(value, 1))


def test_arguments_are_counted_as_often_as_they_occur():
    shared = [0] * 1000
    with pytest.raises(NetworkPickleError, match='more than 10000 values'):
        build_layer(construction.Allowance(10), args=(1, 1, [shared] * 20))


def test_walk():
    assert list(walk({'a': [1, (2,)]}, 5))[1:] == ['a', [1, (2,)], 1, (2,), 2]
    endless = []
    endless += [endless] * 1000
    with pytest.raises(TooDeep):
        list(walk(endless, 10))
