"""`bias_act` beyond the golden values: derivatives in float64, layouts, odd inputs, wrong calls."""

import math

import pytest
import torch

from torch_utils.ops import bias_act

all_impls = pytest.mark.parametrize('impl', ['ref', 'native', 'pytorch'], indirect=True)
both_backends = pytest.mark.parametrize('backend', ['native', 'pytorch'], indirect=True)
all_activations = pytest.mark.parametrize('act', bias_act.activation_funcs)


def test_defaults_are_the_published_ones():
    found = {name: (spec.def_alpha, spec.def_gain) for name, spec in bias_act.activation_funcs.items()}
    root = math.sqrt(2)
    assert found == {
        'linear': (0, 1),
        'relu': (0, root),
        'lrelu': (0.2, root),
        'tanh': (0, 1),
        'sigmoid': (0, 1),
        'elu': (0, 1),
        'selu': (0, 1),
        'softplus': (0, 1),
        'swish': (0, root),
    }


@all_impls
@all_activations
@pytest.mark.parametrize('options', [{}, {'gain': 0.6, 'clamp': 0.4}, {'dim': 2, 'alpha': 0.3}, {'gain': -1.5}])
@pytest.mark.parametrize('with_bias', [True, False])
def test_derivatives(act, options, with_bias, impl):
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(x.shape[options.get('dim', 1)], dtype=torch.float64, requires_grad=True) if with_bias else None

    def op(x, b):
        return bias_act.bias_act(x, b, act=act, **options, impl=impl)

    assert torch.autograd.gradcheck(op, (x, b), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, b), fast_mode=True)


@both_backends
@all_activations
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(2, 5, 7, 3), (0, 5, 4, 4), (6, 5), (1, 5, 1)])
def test_backends_agree(act, dtype, shape, backend):
    x = torch.randn(shape).to(dtype)
    b = torch.randn(5)
    y, y_ref = (bias_act.bias_act(x, b, act=act, clamp=1.0, impl=impl) for impl in ('cuda', 'ref'))
    assert y.dtype == dtype
    tolerance = {2: 0.02, 4: 1e-6, 8: 1e-12}[dtype.itemsize]
    torch.testing.assert_close(y, y_ref, rtol=tolerance, atol=tolerance)


@all_impls
@all_activations
def test_memory_format_is_preserved(act, impl):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = bias_act.bias_act(x, torch.randn(3), act=act, impl=impl)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    assert dx.is_contiguous(memory_format=torch.channels_last)


@both_backends
@pytest.mark.parametrize('act', ['linear', 'relu', 'lrelu'])
@pytest.mark.parametrize('clamp', [None, 0.5])
@pytest.mark.parametrize('with_bias', [True, False])
def test_arguments_are_not_modified(act, clamp, with_bias, backend):
    x = torch.randn(2, 3, 4)[:, :, ::2]
    b = torch.randn(3) if with_bias else None
    before = x.clone()
    for gain in (1, 2):
        bias_act.bias_act(x, b, act=act, gain=gain, clamp=clamp)
    assert torch.equal(x, before)


@both_backends
@all_activations
def test_non_finite_numbers(act, backend):
    x = torch.tensor([[float('nan'), float('inf'), -float('inf'), 1.0]])
    for clamp in (None, 2.0):
        y, y_ref = (bias_act.bias_act(x, act=act, clamp=clamp, impl=impl) for impl in ('cuda', 'ref'))
        torch.testing.assert_close(y, y_ref, equal_nan=True)
        assert y[0, 0].isnan()


@all_impls
@pytest.mark.parametrize('act', ['relu', 'lrelu'])
def test_gradient_stops_where_the_result_is_clamped(act, impl):
    x = torch.tensor([[-30.0, -1.0, 1.0, 3.0]], requires_grad=True)
    bias_act.bias_act(x, act=act, alpha=0.1, gain=1, clamp=2, impl=impl).sum().backward()
    assert x.grad.tolist() == [[0, pytest.approx(0.1 if act == 'lrelu' else 0), 1, 0]]


@both_backends
def test_one_tensor_is_saved_for_the_backward_pass(backend):
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        bias_act.bias_act(x, b, act='lrelu', clamp=1)
    assert saved == [x.numel()]


@pytest.mark.parametrize(
    'options, words',
    [
        ({'impl': 'native'}, "impl='native'"),
        ({'act': 'gelu'}, "act='gelu'.*lrelu"),
        ({'clamp': -1}, 'clamp=-1'),
        ({'b': torch.zeros(2)}, r'b must have the shape \[3\]'),
        ({'b': torch.zeros(3, 1)}, r'b must have the shape \[3\]'),
        ({'b': torch.zeros(3), 'dim': 4}, 'dim=4'),
    ],
)
def test_wrong_calls(options, words):
    with pytest.raises(ValueError, match=words):
        bias_act.bias_act(torch.zeros(2, 3, 4, 5), **options)
