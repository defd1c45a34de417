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
from torch_utils.ops import build, native


def test_all_tests_pass():
    result = CliRunner().invoke(doctor.main, [])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if 'error' in line]
    assert len(lines) == 21
    assert all(' passed, ' in line for line in lines)
    kernels = native.kernels(torch.ones(1))
    assert all((' native ' in line) == (kernels is not None) for line in lines if 'upfirdn2d' in line)
    convolves = kernels is not None and kernels.supports_conv3x3(torch.ones(1, 32, 3, 3), torch.ones(32, 32, 3, 3))
    assert all((' native ' in line) == convolves for line in lines if '3 x 3' in line)


def run_compiled_by(compiler, folder, **environment):
    """Run the self-test in a process whose kernels are compiled by `compiler`; return its lines."""
    environment = {**os.environ, 'CXX': compiler, 'TORCH_EXTENSIONS_DIR': str(folder), **environment}
    result = subprocess.run(
        [sys.executable, '-m', 'torch_utils.ops'],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0 and result.stderr == '', result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if 'error' in line]
    assert len(lines) == 21
    assert all(' native ' in line for line in lines if 'upfirdn2d' in line)
    return lines


on_x86 = pytest.mark.skipif(
    native.backend(torch.device('cpu')).kernels is None
    or platform.machine() not in ('x86_64', 'AMD64')
    or 'avx2' not in build.processor(),
    reason='tests kernels for AVX2',
)
COMPILER = os.environ.get('CXX', 'c++')


@on_x86
@pytest.mark.parametrize('without, convolutions', [('-mno-avx512f', 'native'), ('-mno-avx -mno-avx512f', 'PyTorch')])
def test_all_tests_pass_with_shorter_vectors(without, convolutions, tmp_path):
    lines = run_compiled_by(f'{COMPILER} {without}', tmp_path)
    assert all(f' {convolutions} ' in line for line in lines if '3 x 3' in line)


@on_x86
@pytest.mark.parametrize(
    'threads, convolutions', [('1', 'native'), pytest.param('2', 'PyTorch', marks=pytest.mark.slow)]
)
def test_without_openmp_convolutions_use_pytorchs_threads(threads, convolutions, tmp_path):
    compiler = tmp_path / 'compiler'
    compiler.write_text(
        f'#!/bin/sh\ncase " $* " in *" -fopenmp "*) echo error >&2; exit 1;; esac\nexec {COMPILER} "$@"\n'
    )
    compiler.chmod(0o755)
    lines = run_compiled_by(str(compiler), tmp_path, OMP_NUM_THREADS=threads)
    assert all(f' {convolutions} ' in line for line in lines if '3 x 3' in line)


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
    wrong = [line for line in result.output.splitlines() if 'FAILED' in line]
    assert len(wrong) == 6 and all('upfirdn2d' in line for line in wrong)
