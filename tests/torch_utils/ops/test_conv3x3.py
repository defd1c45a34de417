"""The kernels for 3×3 convolutions: comparison with the definition in float64, and the calls that use them."""

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import conv2d_gradfix, conv2d_resample, conv3x3, native, upfirdn2d

KINDS = {
    'keep': lambda x, w: conv2d_gradfix.conv2d(x, w, padding=1),
    'halve': lambda x, w: conv2d_gradfix.conv2d(x, w, stride=2),
    'twice': lambda x, w: conv2d_gradfix.conv_transpose2d(x, w.transpose(0, 1), stride=2),
}
# Images and weights: square and not, even and odd, a number of channels that the vectors do not divide evenly, more
# tiles than channels and fewer, so many channels that the gradient in the weights has several squares.
SIZES = {
    'even': ([2, 32, 16, 16], 32),
    'odd': ([3, 64, 15, 19], 32),
    'narrow': ([1, 32, 3, 171], 96),
    'many tiles': ([5, 32, 40, 42], 64),
    'many channels': ([1, 160, 17, 16], 288),
    'many images': ([70, 32, 4, 5], 64),
}
KERNELS = native.backend(torch.device('cpu')).kernels
pytestmark = pytest.mark.skipif(
    KERNELS is None or not KERNELS.supports_conv3x3(torch.ones(1, 32, 3, 3), torch.ones(32, 32, 3, 3)),
    reason='no kernels for this processor',
)


@pytest.fixture
def always(monkeypatch):
    """Use the kernels even where PyTorch would be faster."""
    for thresholds in (conv3x3._MIN_PIXELS, conv3x3._MIN_PIXELS_FOR_WEIGHT_GRADIENT):
        for kind in thresholds:
            monkeypatch.setitem(thresholds, kind, 1)


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def derivatives(op, x, w):
    """The result, its gradients, and the gradients of a curved function of either gradient."""
    y = op(x, w)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).requires_grad_()
    first = torch.autograd.grad(y, [x, w], dy, create_graph=True)
    found = [y, *first]
    for gradient in first:
        found += [
            tensor
            for tensor in torch.autograd.grad(gradient.square().sum(), [x, w, dy], retain_graph=True, allow_unused=True)
            if tensor is not None
        ]
    return found


def largest_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_agrees_with_the_definition(always, kind, size):
    shape, outs = SIZES[size]
    height, width = shape[2:]
    if kind == 'halve':
        shape = [*shape[:2], 2 * height + 1, 2 * width + 2]
    x, w = last(torch.randn(shape)).requires_grad_(), torch.randn(outs, shape[1], 3, 3, requires_grad=True)
    assert conv3x3.is_supported(x, w)
    actual = derivatives(KINDS[kind], x, w)
    assert 'Convolve' in type(actual[0].grad_fn).__name__
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    expected = derivatives(KINDS[kind], *(tensor.detach().double().requires_grad_() for tensor in (x, w)))
    assert len(actual) == len(expected) == 7
    for ours, exact in zip(actual, expected):
        assert largest_error(ours, exact) < 3e-6 * shape[1] ** 0.5


@pytest.mark.parametrize('kind', KINDS)
def test_as_accurate_as_pytorch(kind):
    x, w = last(torch.randn(2, 256, 97, 97)), torch.randn(128, 256, 3, 3)
    op = KINDS[kind]
    exact = op(x.double(), w.double())
    ours = largest_error(op(x, w), exact)
    with native.reference_only():
        theirs = largest_error(op(x, w), exact)
    assert ours < 2 * theirs, (ours, theirs)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('outs', [32, 512])
def test_the_number_of_threads_changes_nothing(always, kind, outs):
    x, w = last(torch.randn(3, 64, 33, 31)).requires_grad_(), torch.randn(outs, 64, 3, 3, requires_grad=True)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(derivatives(KINDS[kind], x, w))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_weights_and_gradients_of_any_strides(always):
    x, w = last(torch.randn(2, 32, 16, 18)), torch.randn(64, 32, 3, 3)
    expected = KINDS['keep'](x, w)
    wide = torch.randn(64, 32, 7, 9)
    wide[:, :, 2:5, 1:8:3] = w
    for same in (
        last(w),
        w.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
        wide[:, :, 2:5, 1:8:3],
        torch.nn.Parameter(w),
    ):
        torch.testing.assert_close(KINDS['keep'](x, same), expected, rtol=0, atol=0)
    one = torch.randn(1, 1, 3, 3)
    torch.testing.assert_close(KINDS['keep'](x, one.expand(64, 32, 3, 3)), KINDS['keep'](x, one.repeat(64, 32, 1, 1)))

    x.requires_grad_()
    gradients = [
        torch.autograd.grad(KINDS['keep'](x, w), x, dy)[0]
        for dy in (torch.ones(()).expand(2, 64, 16, 18), torch.ones(2, 64, 16, 18), last(torch.ones(2, 64, 16, 18)))
    ]
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@pytest.mark.usefixtures('always')
def test_only_requested_gradients_are_computed(convolution_calls):
    x, w = last(torch.randn(1, 32, 16, 16)).requires_grad_(), torch.randn(32, 32, 3, 3, requires_grad=True)
    y = KINDS['keep'](x, w).sum()
    torch.autograd.grad(y, x, retain_graph=True)
    assert convolution_calls == ['conv3x3'] * 2
    torch.autograd.grad(y, w, retain_graph=True)
    assert convolution_calls == ['conv3x3'] * 2 + ['conv3x3_weight_gradient']
    y.backward(inputs=[x], retain_graph=True)
    assert convolution_calls == ['conv3x3'] * 2 + ['conv3x3_weight_gradient', 'conv3x3']
    convolution_calls.clear()
    y.backward()
    assert sorted(convolution_calls) == ['conv3x3', 'conv3x3_weight_gradient'] and w.grad is not None


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_non_finite_values_do_not_spread(always, kind, value):
    w = torch.randn(32, 32, 3, 3)
    for row in range(10, 14):
        x = last(torch.zeros(1, 32, 27, 30))
        x[0, 5, row, 20 - row] = value
        y = KINDS[kind](x, w)
        with native.reference_only():
            assert torch.equal(y.isfinite(), KINDS[kind](x, w).isfinite())


SUPPORTED = dict(
    x=[2, 32, 16, 16],
    w=[32, 32, 3, 3],
    stride=1,
    padding=1,
    dilation=1,
    groups=1,
    bias=False,
    dtype=torch.float32,
    layout=torch.channels_last,
)


@pytest.mark.parametrize(
    'change, supported',
    [
        ({}, True),
        ({'x': [1, 32, 16, 16]}, True),
        ({'x': [1, 32, 4, 4]}, True),
        ({'x': [1, 32, 3, 5]}, False),
        ({'stride': (1, 1), 'padding': [1]}, True),
        ({'x': [2, 32, 129, 129], 'stride': 2, 'padding': 0}, True),
        ({'stride': 2}, False),
        ({'padding': 0}, False),
        ({'padding': (1, 2)}, False),
        ({'padding': 'same'}, False),
        ({'dilation': 2}, False),
        ({'bias': True}, False),
        ({'w': [32, 16, 3, 3], 'groups': 2}, False),
        ({'w': [32, 32, 1, 1], 'padding': 0}, False),
        ({'padding': 2}, True),
        ({'w': [24, 32, 3, 3]}, True),  # filled up to 32
        ({'x': [2, 24, 16, 16], 'w': [32, 24, 3, 3], 'padding': (2, 2)}, True),
        ({'w': [24, 24, 3, 3], 'x': [2, 24, 16, 16]}, False),  # too few channels for the work that is added
        ({'w': [20, 32, 3, 3]}, False),
        ({'stride': 2, 'padding': 2}, False),
        ({'x': [0, 32, 16, 16]}, False),
        ({'dtype': torch.float64}, False),
        ({'dtype': torch.bfloat16}, False),
        ({'layout': torch.contiguous_format}, False),
    ],
)
def test_supported_calls(change, supported, monkeypatch):
    calls = []
    original = conv3x3.convolve
    monkeypatch.setattr(conv3x3, 'convolve', lambda *args: calls.append(args[2]) or original(*args))
    case = {**SUPPORTED, **change}
    x = torch.randn(case['x'], dtype=case['dtype']).contiguous(memory_format=case['layout'])
    w, b = torch.randn(case['w'], dtype=case['dtype']), torch.randn(case['w'][0], dtype=case['dtype'])
    options = {name: case[name] for name in ('stride', 'padding', 'dilation', 'groups')}
    actual = conv2d_gradfix.conv2d(x, w, b if case['bias'] else None, **options)
    expected = F.conv2d(x, w, b if case['bias'] else None, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert bool(calls) == supported


@pytest.mark.filterwarnings('ignore')  # Tracing is deprecated.
def test_traced_and_transformed_calls_use_pytorchs_convolution(monkeypatch):
    monkeypatch.setattr(conv3x3, 'convolve', lambda *args: pytest.fail('a kernel was called'))
    x, w = last(torch.randn(2, 32, 16, 16)), torch.randn(32, 32, 3, 3)
    expected = F.conv2d(x, w, padding=1)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return KINDS['keep'](x, w)

    traced = torch.jit.trace(Layer(), x, check_trace=False)
    exported = torch.export.export(Layer(), (x,)).module()
    for found in (traced(x), exported(x), torch.vmap(lambda w: KINDS['keep'](x, w))(w[None])[0]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.func.grad(lambda x: KINDS['keep'](x, w).sum())(x)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: F.conv2d(x, w, padding=1).sum())(x))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert KINDS['keep'](x, w).dtype == torch.bfloat16
    with native.reference_only():
        assert torch.equal(KINDS['keep'](x, w), expected)
    for wrong in (dict(stride=[1, 1, 1]), dict(padding=[1, 1, 1])):
        with pytest.raises(RuntimeError, match='expected (stride|padding)'):
            conv2d_gradfix.conv2d(x, w, **wrong)


def test_default_dtype_and_device_have_no_effect(always):
    x, w = last(torch.randn(1, 32, 16, 16)).requires_grad_(), torch.randn(32, 32, 3, 3, requires_grad=True)
    dy = torch.randn(1, 32, 16, 16)
    expected = [KINDS['keep'](x, w), *torch.autograd.grad(KINDS['keep'](x, w), [x, w], dy)]
    before = torch.get_default_dtype()
    for dtype, device in ((torch.float64, 'cpu'), (torch.float16, 'cpu'), (torch.float32, 'meta')):
        try:
            torch.set_default_dtype(dtype)
            with torch.device(device):
                y = KINDS['keep'](x, w)
                found = [y, *torch.autograd.grad(y, [x, w], dy)]
        finally:
            torch.set_default_dtype(before)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_negative_views(always):
    x, w = last(torch.randn(1, 32, 16, 16)).requires_grad_(), torch.randn(32, 32, 3, 3, requires_grad=True)
    dy = last(torch.randn(1, 32, 16, 16))
    y = KINDS['keep'](x, w)
    for of_minus, minus in zip(
        torch.autograd.grad(y, [x, w], torch._neg_view(dy), retain_graph=True), torch.autograd.grad(y, [x, w], -dy)
    ):
        torch.testing.assert_close(of_minus, minus, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(KINDS['keep'](x, torch._neg_view(w)), KINDS['keep'](x, -w))


@pytest.mark.filterwarnings('ignore:`torch.jit.script` is deprecated')  # Used by PyTorch's forward mode.
def test_forward_mode_and_batched_gradients(always):
    x, w = last(torch.randn(2, 32, 16, 16)).requires_grad_(), torch.randn(32, 32, 3, 3, requires_grad=True)
    tangent = torch.randn(2, 32, 16, 16)
    with torch.autograd.forward_ad.dual_level():
        y = KINDS['keep'](torch.autograd.forward_ad.make_dual(x.detach(), tangent), w)
        found = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(found, F.conv2d(tangent, w, padding=1), rtol=1e-4, atol=1e-4)

    directions = torch.randn(3, 2, 32, 16, 16)
    y = KINDS['keep'](x, w)
    batched = torch.autograd.grad(y, [x, w], directions, is_grads_batched=True, retain_graph=True)
    for index, dy in enumerate(directions):
        for many, one in zip(batched, torch.autograd.grad(y, [x, w], dy, retain_graph=True)):
            torch.testing.assert_close(many[index], one, rtol=1e-4, atol=1e-3)


def test_exported_for_any_number_of_images():
    w = torch.randn(32, 32, 3, 3)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return KINDS['keep'](x, w)

    exported = torch.export.export(
        Layer(), (last(torch.randn(2, 32, 8, 8)),), dynamic_shapes=({0: torch.export.Dim('images', max=100)},)
    ).module()
    x = last(torch.randn(20, 32, 8, 8))
    torch.testing.assert_close(exported(x), F.conv2d(x, w, padding=1))


@pytest.mark.parametrize('up, down', [(1, 1), (2, 1), (1, 2)])
def test_within_conv2d_resample(always, up, down):
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    x, w = last(torch.randn(2, 32, 32, 36)).requires_grad_(), torch.randn(64, 32, 3, 3, requires_grad=True)

    def op(x, w):
        return conv2d_resample.conv2d_resample(x, w, f, up=up, down=down, padding=1, flip_weight=up == 1)

    actual = derivatives(op, x, w)
    with native.reference_only():
        expected = derivatives(op, *(tensor.detach().double().requires_grad_() for tensor in (x, w)))
    for ours, exact in zip(actual, expected):
        assert largest_error(ours, exact) < 1e-5
