"""The same random numbers in every run, and the implementations that an operator can have."""

import pytest
import torch

from torch_utils.ops import native


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def way(request, monkeypatch):
    """What `impl='cuda'` means in a test: 'native', the kernels, or 'plain', PyTorch's own operators."""
    choose(request.param, monkeypatch)
    return request.param


@pytest.fixture
def impl(request, monkeypatch):
    """The argument `impl` for 'ref', and for the two meanings of 'cuda'."""
    if request.param == 'ref':
        return 'ref'
    choose(request.param, monkeypatch)
    return 'cuda'


def choose(way, monkeypatch):
    if way == 'plain':
        monkeypatch.setattr(native, 'kernels', lambda x: None)
    elif native.backend(torch.device('cpu')).kernels is None:
        pytest.skip('no native kernels on this machine')
