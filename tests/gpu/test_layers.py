"""A layer of the generator as one operator on a GPU: its values and derivatives, and that networks use it."""

import pytest
import torch

from torch_utils import precision
from torch_utils.ops import conv2d_resample, cuda_kernels, modulated_layer, native, upfirdn2d
from training.networks_stylegan2 import SynthesisLayer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]

FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 4e-6, torch.float64: 1e-11}
ACTIVATION = dict(act='lrelu', gain=1.5, clamp=1.2)


@pytest.fixture(autouse=True)
def prepared():
    torch.manual_seed(0)
    reason = native.backend(torch.device('cuda', 0)).reason
    assert reason is None, reason
    with precision.tensor_float32(False):
        yield


def inputs(n, up, num_noises, dtype=torch.float32, device='cuda', channels_last=False, requires_grad=False):
    """Tensors as networks pass them: images and bias in their own type, the others in float32 or float64."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    noise = torch.randn(num_noises, 1, 6 * up, 5 * up).to(wide) if num_noises else None
    made = [torch.randn(n, 8, 6, 5).to(dtype), torch.randn(4, 8, 3, 3).to(wide), torch.randn(n, 8).add(1).to(wide)]
    made += [noise, torch.randn(4).to(dtype)]
    if channels_last:
        made[0] = made[0].contiguous(memory_format=torch.channels_last)
    return [tensor if tensor is None else tensor.to(device).requires_grad_(requires_grad) for tensor in made]


def fused(x, weight, styles, noise, b, up, activation=ACTIVATION):
    geometry = dict(up=up, padding=1, resample_filter=FILTER.to(x.device), flip_weight=up == 1)
    return conv2d_resample.modulated_layer(x, weight, styles, noise, b, **geometry, **activation)


def exact(made, up, activation=ACTIVATION):
    """The layer step by step, in float64 on the CPU."""
    with native.reference_only():
        return modulated_layer.reference(*made, up=up, resample_filter=FILTER, **activation)


def in_double(made):
    return [None if t is None else t.detach().cpu().double().requires_grad_(t.requires_grad) for t in made]


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    error = (actual.double().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= tolerance, f'relative error {error:.1e}'


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('n, num_noises', [(1, 1), (3, 3), (3, 1), (2, 0)])
def test_values(dtype, up, n, num_noises):
    for channels_last in (False, True):
        made = inputs(n, up, num_noises, dtype, channels_last=channels_last)
        y = fused(*made, up)
        assert y.dtype == dtype and y.is_cuda
        assert_close(y, exact(in_double(made), up), TOLERANCE[dtype])


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('n, num_noises', [(1, 1), (3, 3)])
def test_first_and_second_derivatives(up, n, num_noises):
    made = inputs(n, up, num_noises, torch.float64, requires_grad=True)
    found = []
    for tensors, y in ((made, fused(*made, up)), (in_double(made), None)):
        y = exact(tensors, up) if y is None else y
        dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape).cos().requires_grad_()
        first = torch.autograd.grad(y, tensors, dy, create_graph=True)
        square = sum(gradient.square().sum() for gradient in first)
        found.append([*first, *torch.autograd.grad(square, [*tensors, dy], allow_unused=True)])
    for actual, expected in zip(*found, strict=True):
        assert_close(actual.detach(), expected.detach(), 1e-9)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(dtype):
    made = inputs(2, 2, 2, dtype, requires_grad=True)
    double = in_double(made)
    linear = dict(act='linear', gain=1.5)  # rounding moves nothing across the kink
    y, expected = fused(*made, 2, linear), exact(double, 2, linear)
    dy = torch.randn(expected.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(y, made, dy.to(y))
    for tensor, gradient, reference in zip(made, gradients, torch.autograd.grad(expected, double, dy)):
        assert gradient.dtype == tensor.dtype
        assert_close(gradient, reference, 8 * TOLERANCE[dtype])


@pytest.mark.parametrize('dtype, up', [(torch.float32, 1), (torch.float16, 2)])
def test_networks_use_it(monkeypatch, dtype, up):
    """... and compute the same without it, as in the published code."""
    layer = SynthesisLayer(8, 4, 6, resolution=8, up=up, conv_clamp=1.0).cuda().requires_grad_(False)
    layer.bias.normal_()
    layer.noise_strength.fill_(0.3)
    x, w = torch.randn(2, 8, 8 // up, 8 // up, device='cuda').to(dtype), torch.randn(2, 6, device='cuda')
    calls = []
    finish = cuda_kernels.finish
    monkeypatch.setattr(cuda_kernels, 'finish', lambda *args: calls.append(1) or finish(*args))
    y = layer(x, w, noise_mode='const')
    assert calls == [1] and y.dtype == dtype
    monkeypatch.delattr(conv2d_resample, 'modulated_layer')
    for fused_modconv in (False, True):
        assert_close(y, layer(x, w, noise_mode='const', fused_modconv=fused_modconv).double().cpu(), TOLERANCE[dtype])
    assert calls == [1]


def test_large_weights_in_half_precision():
    made = inputs(2, 1, 2, torch.float16)
    made[1] *= 1e4
    made[2] *= 1e3
    y = fused(*made, 1)
    assert y.isfinite().all()
    assert_close(y, exact(in_double(made), 1), TOLERANCE[torch.float16])
