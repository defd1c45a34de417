"""Switches for the precision of float32 products, by the interface of the installed PyTorch and by earlier ones."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.small_runs import ROOT
from torch_utils import precision


def old_backends(matmul=False, convolution=True):
    """`torch.backends` up to PyTorch 2.8."""
    return SimpleNamespace(
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=matmul)),
        cudnn=SimpleNamespace(allow_tf32=convolution),
    )


def new_backends():
    """`torch.backends` of PyTorch 2.9, in which reading `allow_tf32` is an error."""
    operation = {name: SimpleNamespace(fp32_precision='none') for name in ('matmul', 'conv', 'mkldnn')}
    return SimpleNamespace(
        cuda=SimpleNamespace(matmul=operation['matmul']),
        cudnn=SimpleNamespace(conv=operation['conv']),
        mkldnn=SimpleNamespace(matmul=operation['mkldnn']),
    )


def values_of(backends):
    if hasattr(backends.cudnn, 'conv'):
        return backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


@pytest.fixture(params=['installed', 'old', 'new'])
def backends(request, monkeypatch):
    if request.param == 'installed':
        before = precision.tensor_float32_setting()
        yield torch.backends
        assert precision.tensor_float32_setting() == before
        return
    fake = old_backends() if request.param == 'old' else new_backends()
    monkeypatch.setattr(torch, 'backends', fake)
    yield fake


def test_the_setting_applies_within_the_context_and_is_restored(backends):
    before = values_of(backends)
    rounded, full = ('tf32', 'ieee') if hasattr(backends.cudnn, 'conv') else (True, False)
    with precision.tensor_float32(True):
        assert values_of(backends) == precision.tensor_float32_setting() == (rounded, rounded)
        with pytest.raises(KeyError), precision.tensor_float32(False):
            assert values_of(backends) == (full, full)
            raise KeyError
        assert values_of(backends) == (rounded, rounded)
        precision.allow_tensor_float32(False)
        assert values_of(backends) == precision.tensor_float32_setting() == (full, full)
    assert values_of(backends) == before


def test_accurate_products_after_training_has_allowed_less(backends, monkeypatch):
    is_new = hasattr(backends.cudnn, 'conv')
    calls = []
    if not is_new:
        monkeypatch.setattr(torch, 'get_float32_matmul_precision', lambda: 'high')
        monkeypatch.setattr(torch, 'set_float32_matmul_precision', calls.append)
    with precision.tensor_float32(True):
        setting = precision.tensor_float32_setting()
        with precision.accurate_products():
            if is_new:
                assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == 'ieee'
            else:
                assert calls == ['highest']
        assert precision.tensor_float32_setting() == setting
    assert calls == ([] if is_new else ['highest', 'high'])


BY_THE_OLD_INTERFACE = 'torch.backends.cuda.matmul.allow_tf32 = True; torch.set_float32_matmul_precision("medium")'
BY_THE_NEW_INTERFACE = 'torch.backends.fp32_precision = "tf32"'


@pytest.mark.parametrize('before', ['', BY_THE_OLD_INTERFACE, BY_THE_NEW_INTERFACE])
def test_neither_errors_nor_warnings(before):
    """... whatever a program has chosen before, in a process of its own, since PyTorch warns once."""
    if before == BY_THE_NEW_INTERFACE and not hasattr(torch.backends, 'fp32_precision'):
        pytest.skip('needs PyTorch 2.9')
    code = f"""
import torch, warnings
{before or 'pass'}
warnings.simplefilter('error')
from torch_utils import precision
a = torch.randn(3, 3)
setting = precision.tensor_float32_setting()
for allowed in (True, False):
    with precision.tensor_float32(allowed), precision.accurate_products():
        torch.nn.functional.conv2d((a @ a)[None, None], a[None, None])
    assert precision.tensor_float32_setting() == setting
    precision.allow_tensor_float32(allowed)
    with precision.accurate_products():
        a @ a
    setting = precision.tensor_float32_setting()
"""
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == '', result.stderr


def test_no_other_code_asks_for_the_precision():
    """... since mixing PyTorch's two interfaces is an error."""
    files = [path for path in ROOT.rglob('*.py') if not {'.venv', 'tests', 'build'} & set(path.relative_to(ROOT).parts)]
    switches = ('.allow_tf32 =', 'backends.cudnn.allow_tf32', 'matmul.allow_tf32', 'float32_matmul_precision(')
    found = [path.name for path in files if any(switch in path.read_text(encoding='utf-8') for switch in switches)]
    assert sorted(found) == ['precision.py']
