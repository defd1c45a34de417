"""`python -m torch_utils.ops`."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
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
    assert all((' native ' in line) == (kernels is not None) for line in lines if 'upfirdn2d' in line)
    convolves = kernels is not None and kernels.supports_conv3x3(torch.ones(1, 32, 3, 3), torch.ones(32, 32, 3, 3))
    assert all((' native ' in line) == convolves for line in lines if '3 x 3' in line)


@pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason='about instructions of x86')
@pytest.mark.skipif(native.backend(torch.device('cpu')).kernels is None, reason='no native kernels on this machine')
@pytest.mark.parametrize('without, convolutions', [('-mno-avx512f', 'native'), ('-mno-avx -mno-avx512f', 'plain')])
def test_all_is_right_with_shorter_vectors(without, convolutions, tmp_path):
    if 'avx2' not in Path('/proc/cpuinfo').read_text():
        pytest.skip('this processor has no AVX2')
    environment = {
        **os.environ, 'CXX': f'{os.environ.get("CXX", "c++")} {without}', 'TORCH_EXTENSIONS_DIR': str(tmp_path)}
    result = subprocess.run([sys.executable, '-m', 'torch_utils.ops'], cwd=Path(__file__).resolve().parents[3],
                            capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and result.stderr == '', result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if 'error' in line]
    assert len(lines) == 19
    assert all(f' {convolutions} ' in line for line in lines if '3 x 3' in line)
    assert all(' native ' in line for line in lines if 'upfirdn2d' in line)


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
