"""`python -m torch_utils.ops`."""

import torch
from click.testing import CliRunner

from torch_utils.ops import __main__ as doctor
from torch_utils.ops import native


def test_all_is_right():
    result = CliRunner().invoke(doctor.main, [])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if 'error' in line]
    assert len(lines) == 19
    assert all(' right, ' in line for line in lines)
    kernels = native.kernels(torch.ones(1))
    assert all((' native ' in line) == (kernels is not None)
               for line in lines if 'upfirdn2d' in line or '3 x 3' in line)


def test_plain_pytorch_is_tested_too(monkeypatch):
    monkeypatch.setattr(native, 'backend', lambda device: native.Backend(None, 'there is no compiler'))
    result = CliRunner().invoke(doctor.main, [])
    assert result.exit_code == 0, result.output
    assert 'plain PyTorch: there is no compiler' in result.output
    assert 'native' not in result.output


def test_wrong_results_are_found(monkeypatch):
    monkeypatch.setattr(doctor, 'upfirdn2d', lambda x, f, **options: x * (1 if x.dtype == torch.float64 else 1.001))
    result = CliRunner().invoke(doctor.main, [])
    assert result.exit_code == 1
    wrong = [line for line in result.output.splitlines() if 'WRONG' in line]
    assert len(wrong) == 6 and all('upfirdn2d' in line for line in wrong)
