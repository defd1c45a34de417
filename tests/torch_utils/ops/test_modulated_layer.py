"""A layer of the generator as one operator: comparison with the formula in float64, and calls that do not use it."""

import itertools

import pytest
import torch

from torch_utils.ops import conv2d_resample, modulated_layer, native, upfirdn2d
from training import networks_stylegan2

KERNELS = native.backend(torch.device('cpu')).kernels
pytestmark = pytest.mark.skipif(
    KERNELS is None or not KERNELS.supports_conv3x3(torch.ones(1, 32, 3, 3), torch.ones(32, 32, 3, 3)),
    reason='no kernels for this processor',
)
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
NAMES = ('x', 'weight', 'styles', 'noise', 'b')


def formula(x, weight, styles, noise, b, up=1, demodulate=True, act='linear', gain=1.0, clamp=None, f=FILTER):
    """The layer with the weights of each sample, by the definition of each step."""
    w = weight * styles[:, None, :, None, None]  # N O I kh kw
    if demodulate:
        w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    with native.reference_only():
        images = [
            conv2d_resample.conv2d_resample(image[None], own, f, up=up, padding=1, flip_weight=up == 1)
            for image, own in zip(x, w)
        ]
    z = torch.cat(images) + b[:, None, None]
    z = z if noise is None else z + noise
    z = (torch.nn.functional.leaky_relu(z, 0.2) if act == 'lrelu' else z) * gain
    return z if clamp is None else z.clamp(-clamp, clamp)


def fused(x, weight, styles, noise, b, up=1, f=FILTER, **options):
    geometry = dict(up=up, padding=1, resample_filter=f, flip_weight=up == 1)
    return conv2d_resample.modulated_layer(x, weight, styles, noise, b, **geometry, **options)


def tensors(n=2, ins=64, outs=32, size=(12, 10), up=1, noise='random', requires_grad=False):
    high, wide = size[0] * up, size[1] * up
    shapes = {'none': None, 'const': [high, wide], 'random': [n, 1, high, wide]}
    made = [
        torch.randn([n, ins, *size]).contiguous(memory_format=torch.channels_last),
        torch.randn([outs, ins, 3, 3]),
        torch.randn([n, ins]) + 1,
        None if noise == 'none' else torch.randn(shapes[noise]),
        torch.randn([outs]),
    ]
    return [tensor if tensor is None else tensor.requires_grad_(requires_grad) for tensor in made]


def in_double(made):
    return [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in made]


def largest_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('noise', ['none', 'const', 'random'])
@pytest.mark.parametrize('demodulate', [False, True])
def test_agrees_with_the_formula(up, noise, demodulate):
    options = dict(up=up, demodulate=demodulate)
    for n, act, clamp in itertools.product([1, 4], ['linear', 'lrelu'], [None, 0.7]):
        made = tensors(n=n, up=up, noise=noise)
        more = dict(options, act=act, gain=1.3, clamp=clamp)
        y = fused(*made, **more)
        assert y.is_contiguous(memory_format=torch.channels_last)
        exact = formula(*in_double(made), **more)
        scale = formula(*in_double(made), **dict(more, clamp=None)).abs().max()
        assert (y - exact).abs().max() < 5e-6 * scale


@pytest.mark.parametrize('up', [1, 2])
def test_the_reference_is_the_formula(up):
    made = in_double(tensors(up=up))
    options = dict(up=up, act='lrelu', gain=1.3, clamp=0.7)
    y = modulated_layer.reference(*made, resample_filter=FILTER, **options)
    torch.testing.assert_close(y, formula(*made, **options))


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize(
    'shape',
    [
        dict(n=1, ins=32, outs=96, size=(4, 4)),
        dict(n=3, ins=96, outs=160, size=(2, 3)),
        dict(n=1, ins=160, outs=32, size=(17, 33)),
        dict(n=4, ins=32, outs=64, size=(36, 28)),
        dict(n=1, ins=32, outs=32, size=(1, 5)),
    ],
    ids=str,
)
def test_shapes(up, shape):
    made = tensors(up=up, **shape)
    y = fused(*made, up=up, act='lrelu', gain=2**0.5, clamp=256)
    assert largest_error(y, formula(*in_double(made), up=up, act='lrelu', gain=2**0.5, clamp=256)) < 5e-6
    contiguous = [made[0].contiguous(), *made[1:]]
    assert torch.equal(y, fused(*contiguous, up=up, act='lrelu', gain=2**0.5, clamp=256))


@pytest.mark.parametrize('f', [None, [1, 2, 1], [1, 3, 3, 1], [1, 5, 10, 10, 5, 1], list(range(1, 9))], ids=str)
def test_filters(f):
    f = None if f is None else upfirdn2d.setup_filter(f)
    made = tensors(up=2)
    exact = formula(*in_double(made), up=2, act='lrelu', f=None if f is None else f.double())
    assert largest_error(fused(*made, up=2, act='lrelu', f=f), exact) < 5e-6


def derivatives(function, made):
    """The result, its gradients, and the gradients of a curved function of all of them."""
    y = function(*made)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).cos().requires_grad_()
    inputs = [tensor for tensor in made if tensor is not None]
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    found = [y, *first]
    for gradient in first:
        second = torch.autograd.grad(gradient.square().sum(), [*inputs, dy], retain_graph=True, allow_unused=True)
        found += [torch.zeros([]) if tensor is None else tensor for tensor in second]
    return found


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('noise', ['none', 'const', 'random'])
@pytest.mark.parametrize('demodulate', [False, True])
@pytest.mark.parametrize('act, clamp', [('linear', None), ('lrelu', 0.7)])
def test_first_and_second_derivatives(up, noise, demodulate, act, clamp):
    made = tensors(n=2, ins=32, outs=32, size=(9, 8), up=up, noise=noise, requires_grad=True)
    options = dict(up=up, demodulate=demodulate, act=act, gain=1.3, clamp=clamp)
    actual = derivatives(lambda *inputs: fused(*inputs, **options), made)
    assert 'ModulatedLayer' in type(actual[0].grad_fn).__name__
    expected = derivatives(lambda *inputs: formula(*inputs, **options), in_double(made))
    largest = max(exact.abs().max() for exact in expected)
    for ours, exact in zip(actual, expected, strict=True):
        if exact.any():
            assert largest_error(ours, exact) < 1e-4
        else:  # there, the first gradient depends on the result, from which the formula derives c
            assert ours.abs().max() < 1e-6 * largest


@pytest.mark.parametrize('up', [1, 2])
def test_gradients_without_a_graph(up):
    made = tensors(n=3, ins=64, outs=96, size=(17, 20), up=up, requires_grad=True)
    options = dict(up=up, act='lrelu', gain=2**0.5, clamp=1.5)
    exact = in_double(made)
    y, expected = fused(*made, **options), formula(*exact, **options)
    dy = torch.randn(y.shape)
    for ours, theirs in zip(torch.autograd.grad(y, made, dy), torch.autograd.grad(expected, exact, dy.double())):
        assert largest_error(ours, theirs) < 2e-5


def test_only_requested_gradients_are_computed(convolution_calls):
    made = tensors(n=2, size=(32, 32), requires_grad=True)
    y = fused(*made, act='lrelu').sum()
    torch.autograd.grad(y, made[2], retain_graph=True)
    assert convolution_calls == ['conv3x3'] * 2
    torch.autograd.grad(y, made[1], retain_graph=True)
    assert convolution_calls == ['conv3x3'] * 2 + ['conv3x3_weight_gradient']
    torch.autograd.grad(y, made[4])
    assert len(convolution_calls) == 3


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('shape', [dict(n=1, ins=64, outs=512, size=(8, 8)), dict(n=3, size=(33, 31))], ids=str)
def test_the_number_of_threads_changes_nothing(up, shape):
    # Without coefficients: PyTorch's matrix product, which makes them, may depend on the number of threads.
    options = dict(up=up, demodulate=False, act='lrelu', clamp=1)
    made = tensors(up=up, requires_grad=True, **shape)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = fused(*made, **options)
            gradients = torch.autograd.grad(y, made, torch.ones_like(y))
            found.append([y, fused(*[t.detach() for t in made], **options), *gradients])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[0][1])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def construct_layer():
    layer = networks_stylegan2.SynthesisLayer(32, 64, w_dim=16, resolution=16).eval()
    return layer, last(torch.randn(1, 32, 16, 16)), torch.randn(1, 16)


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def run_with_separate_operators(layer, *inputs, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(conv2d_resample, 'modulated_layer')
        return layer(*inputs, **options)


@pytest.mark.parametrize('grad', [False, True])
def test_changed_weights_take_effect(grad):
    layer, x, w = construct_layer()
    other, _x, _w = construct_layer()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def one_step():
        optimizer.zero_grad()
        layer(x, w, noise_mode='const').square().sum().backward()
        optimizer.step()

    def by_data():
        layer.weight.data.mul_(torch.linspace(0.5, 2, 9).reshape(3, 3))

    def by_numpy():
        layer.weight.detach().numpy()[5, 7, 1, 2] += 30

    def in_place():
        with torch.no_grad():
            layer.weight[3].mul_(torch.linspace(-1, 2, 32)[:, None, None])

    def replaced():
        layer.weight = torch.nn.Parameter(torch.randn(64, 32, 3, 3))

    for change in (one_step, by_data, by_numpy, in_place, replaced, lambda: layer.load_state_dict(other.state_dict())):
        change()
        with torch.set_grad_enabled(grad):
            y = layer(x, w, noise_mode='const')
        torch.testing.assert_close(y, run_with_separate_operators(layer, x, w, noise_mode='const'), rtol=0, atol=2e-5)


@pytest.mark.parametrize('n', [1, 2])
def test_generators_use_it(n, monkeypatch):
    calls = []
    original = modulated_layer.modulated_layer

    def counted(*args, **kwargs):
        calls.append(original(*args, **kwargs))
        return calls[-1]

    monkeypatch.setattr(conv2d_resample, 'modulated_layer', counted)
    G = networks_stylegan2.Generator(32, 0, 32, 32, 3, synthesis_kwargs=dict(channel_base=1024, channel_max=64))
    ws = torch.randn(n, G.num_ws, 32)
    for network in (G.eval(), G.train()):
        image = network.synthesis(ws, noise_mode='const')
        assert len(calls) == 7 and all(y is not None for y in calls)
        calls.clear()
        with native.reference_only():
            torch.testing.assert_close(image, network.synthesis(ws, noise_mode='const'), rtol=1e-4, atol=1e-4)
        assert all(y is None for y in calls)
        calls.clear()
        separate = run_with_separate_operators(network.synthesis, ws, noise_mode='const')
        torch.testing.assert_close(image, separate, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'change',
    [
        dict(act='swish'),
        dict(act='relu'),
        dict(gain=0.0),
        dict(padding=0),
        dict(up=4),
        dict(flip_weight=False),
        dict(outs=24),
        dict(ins=48),
        dict(kernel=1),
        dict(dtype=torch.float64),
        dict(noise=[2, 32, 12, 10]),
        dict(noise=[1, 1]),
        dict(device='meta'),
    ],
    ids=str,
)
def test_other_layers_use_the_separate_operators(change):
    case = dict(ins=32, outs=32, kernel=3, dtype=torch.float32, noise=[12, 10], device='cpu', padding=1) | change
    options = dict(device=case['device'], dtype=case['dtype'])
    x, styles = torch.randn([2, case['ins'], 12, 10], **options), torch.randn([2, case['ins']], **options)
    weight = torch.randn([case['outs'], case['ins'], case['kernel'], case['kernel']], **options)
    noise, b = torch.randn(case['noise'], **options), torch.randn(case['outs'], **options)
    chosen = {name: case[name] for name in ('act', 'gain', 'padding', 'up', 'flip_weight') if name in case}
    assert conv2d_resample.modulated_layer(x, weight, styles, noise, b, **chosen) is None


@pytest.mark.filterwarnings('ignore')  # Tracing is deprecated.
def test_traced_and_transformed_calls():
    layer, x, w = construct_layer()
    layer.requires_grad_(False)

    class Layer(torch.nn.Module):
        def forward(self, x, w):
            return layer(x, w, noise_mode='const')

    expected = layer(x, w, noise_mode='const')
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.jit.trace(Layer(), (x, w), check_trace=False)(x, w), expected, **close)
    torch.testing.assert_close(torch.export.export(Layer(), (x, w)).module()(x, w), expected, **close)
    gradient = torch.func.grad(lambda x: layer(x, w, noise_mode='const').square().sum())(x)
    x.requires_grad_()
    y = layer(x, w, noise_mode='const')
    torch.testing.assert_close(gradient, torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0], **close)
    directions = torch.randn(3, *y.shape)
    (batched,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    for index, dy in enumerate(directions):
        torch.testing.assert_close(batched[index], torch.autograd.grad(y, x, dy, retain_graph=True)[0], **close)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert layer(x, w, noise_mode='const').dtype == torch.bfloat16


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_non_finite_values_do_not_spread(value):
    x, weight, styles, noise, b = tensors(n=1, ins=32, size=(24, 20))
    x = last(torch.zeros_like(x))
    x[0, 5, 9, 10] = value
    y = fused(x, weight, styles, noise, b)
    far = torch.ones(24, 20, dtype=torch.bool)
    far[8:11, 9:12] = False
    assert y[:, :, far].isfinite().all() and not y[:, :, ~far].isfinite().any()
