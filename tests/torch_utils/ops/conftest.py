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
