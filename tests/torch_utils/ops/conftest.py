"""Fixtures for the operators: reproducible random numbers, and the implementations of an operator."""

import pytest
import torch

from torch_utils.ops import native


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def backend(request, monkeypatch):
    """What `impl='cuda'` uses in a test: 'native' for the kernels, or 'pytorch' for PyTorch's own operators."""
    use_backend(request.param, monkeypatch)
    return request.param


@pytest.fixture
def impl(request, monkeypatch):
    """The argument `impl`: 'ref', or 'cuda' with either backend."""
    if request.param == 'ref':
        return 'ref'
    use_backend(request.param, monkeypatch)
    return 'cuda'


def use_backend(name, monkeypatch):
    if name == 'pytorch':
        monkeypatch.setattr(native, 'kernels', lambda x: None)
    elif native.backend(torch.device('cpu')).kernels is None:
        pytest.skip('no native kernels on this machine')


@pytest.fixture
def convolution_calls(monkeypatch):
    """The names of the kernels for 3x3 convolutions, in the order in which the CPU has called them."""
    kernels, calls = native.backend(torch.device('cpu')).kernels, []

    def recorded(name):
        original = getattr(kernels, name)
        return lambda *args: calls.append(name) or original(*args)

    for name in ('conv3x3', 'conv3x3_weight_gradient'):
        monkeypatch.setattr(kernels, name, recorded(name))
    return calls
