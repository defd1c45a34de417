"""The CPU kernels in particular, and the dispatch of calls to kernels or to other implementations."""

import copy
import threading

import pytest
import torch
from torch import library

from torch_utils.ops import bias_act, filtered_lrelu, native, upfirdn2d
from torch_utils.ops.bias_act import activation_funcs

pytestmark = pytest.mark.skipif(native.backend(torch.device('cpu')).kernels is None, reason='no native CPU kernels')

F1331 = upfirdn2d.setup_filter([1, 3, 3, 1])
LAYOUTS = {
    'contiguous': lambda x: x,
    'channels-last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'strided': lambda x: x.repeat_interleave(3, dim=3)[:, :, :, ::3],
    'cropped': lambda x: torch.nn.functional.pad(x, [1, 2, 3, 4])[:, :, 3:-4, 1:-2],
    'cropped channels-last': lambda x: torch.nn.functional.pad(x, [1, 2, 3, 4]).contiguous(
        memory_format=torch.channels_last
    )[:, :, 3:-4, 1:-2],
    'expanded images': lambda x: x[:1].expand(x.shape),
    'expanded rows': lambda x: x[:, :, :1].expand(x.shape),
    'expanded columns': lambda x: x[:, :, :, :1].expand(x.shape),
    'overlapping rows': lambda x: torch.randn(x.numel()).as_strided(x.shape, (x[0].numel(), x[0, 0].numel(), 1, 1)),
}
all_layouts = pytest.mark.parametrize('layout', LAYOUTS)


@pytest.fixture
def kernels():
    return native.kernels(torch.zeros(1))


def both(op, *leaves):
    """Return result, gradients and second gradients of `op(impl, ...)`, by the kernels and by the reference."""
    results = []
    for impl in ('cuda', 'ref'):
        mine = [leaf.detach().requires_grad_() for leaf in leaves]
        y = op(impl, *mine)
        dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape).requires_grad_()
        first = torch.autograd.grad(y, mine, dy, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [dy, *mine], allow_unused=True)
        results.append([y, *first, *(torch.zeros(()) if g is None else g for g in second)])
    return results


def assert_same(results, tolerance=2e-5):
    for actual, expected in zip(*results):
        if actual.ndim == 0 or expected.ndim == 0:  # Nothing depends on it.
            assert not actual.any() and not expected.any()
            continue
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max() + 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# bias_act


@all_layouts
@pytest.mark.parametrize('act', ['lrelu', 'tanh', 'swish'])
@pytest.mark.parametrize('dim', [0, 1, 3])
def test_bias_act_takes_any_layout(layout, act, dim):
    x = LAYOUTS[layout](torch.randn(3, 5, 7, 4))
    assert_same(
        both(lambda impl, x, b: bias_act.bias_act(x, b, dim=dim, act=act, impl=impl), x, torch.randn(x.shape[dim]))
    )


@pytest.mark.parametrize('shape', [(1, 1), (3, 1), (5, 700), (2, 3, 5), (2, 3, 1500), (4, 70, 3, 5), (1, 9, 50, 50)])
@pytest.mark.parametrize('layout', ['contiguous', 'channels-last'])
def test_bias_act_of_many_shapes(shape, layout):
    x = torch.randn(shape)
    if x.ndim == 4:
        x = LAYOUTS[layout](x)
    assert_same(
        both(lambda impl, x, b: bias_act.bias_act(x, b, act='lrelu', clamp=1.5, impl=impl), x, torch.randn(shape[1]))
    )


def test_gradient_of_the_bias_is_summed_the_same_on_any_number_of_threads():
    x, b = torch.randn(4, 40, 32, 33), torch.randn(40, requires_grad=True)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            for layout in ('contiguous', 'channels-last'):
                y = bias_act.bias_act(LAYOUTS[layout](x), b, act='lrelu')
                found += torch.autograd.grad(y.square().sum(), b)
        finally:
            torch.set_num_threads(before)
    y = bias_act.bias_act(x.double(), b.double(), act='lrelu', impl='ref')
    (expected,) = torch.autograd.grad(y.square().sum(), b)
    for gradient in found:
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-3)


def test_sums_of_many_numbers_keep_their_precision():
    y = bias_act.bias_act(torch.ones(1, 2, 3000, 1000), b := torch.zeros(2, requires_grad=True), act='lrelu', gain=1)
    (gradient,) = torch.autograd.grad(y.sum(), b)
    assert gradient.tolist() == [3e6, 3e6]


@pytest.mark.parametrize('layout', ['contiguous', 'channels-last'])
def test_results_larger_than_the_caches(layout):
    """They are stored past the caches; with odd sizes, rows start anywhere in a cache line."""
    x, b = LAYOUTS[layout](torch.randn(1, 9, 1021, 1003)), torch.randn(9)
    expected = bias_act.bias_act(x, b, act='lrelu', impl='ref')
    torch.testing.assert_close(bias_act.bias_act(x, b, act='lrelu'), expected)
    small = LAYOUTS[layout](x[:, :, :510, :501].contiguous())
    expected = upfirdn2d.upsample2d(small, F1331, impl='ref')
    torch.testing.assert_close(upfirdn2d.upsample2d(small, F1331), expected, check_stride=False)


@pytest.mark.parametrize('act', [act for act in activation_funcs if act not in bias_act.PIECEWISE_LINEAR])
def test_third_derivatives(act):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for impl in ('cuda', 'ref'):
        gradient = bias_act.bias_act(x, act=act, impl=impl)
        for _ in range(3):
            (gradient,) = torch.autograd.grad(gradient.sum(), x, create_graph=True)
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# upfirdn2d


@all_layouts
@pytest.mark.parametrize(
    'options',
    [
        {'padding': [2, 1, 1, 2]},
        {'up': 2, 'padding': [2, 1, 3, 0], 'gain': 4},
        {'down': 2, 'padding': [1, 1, -1, 2]},
        {'up': 4, 'down': 3, 'padding': -3},
    ],
)
@pytest.mark.parametrize('channels', [3, 17])
def test_upfirdn2d_takes_any_layout(layout, options, channels):
    x = LAYOUTS[layout](torch.randn(2, channels, 9, 11))
    assert_same(both(lambda impl, x: upfirdn2d.upfirdn2d(x, F1331, **options, impl=impl), x))


@pytest.mark.parametrize('case', range(60))
def test_upfirdn2d_at_random(case):
    torch.manual_seed(case)

    def pick(low, high):
        return int(torch.randint(low, high + 1, []))

    f = torch.randn([pick(1, 7)] if case % 3 == 0 else [pick(1, 5), pick(1, 6)])
    if case % 3 == 1:
        f = torch.outer(torch.randn(pick(1, 6)), torch.randn(pick(1, 4)))
    x = torch.randn(pick(1, 3), pick(1, 20), pick(1, 40), pick(1, 150))
    if case % 2:
        x = x.contiguous(memory_format=torch.channels_last)
    kh, kw = f.shape[0], f.shape[-1]
    options = dict(
        up=[pick(1, 5), pick(1, 4)],
        down=[pick(1, 5), pick(1, 4)],
        gain=0.7,
        flip_filter=bool(case % 5),
        padding=[pick(-1, kw), kw + pick(0, 9), pick(0, kh), kh + pick(-1, 3)],
    )
    assert_same(both(lambda impl, x: upfirdn2d.upfirdn2d(x, f, **options, impl=impl), x), tolerance=1e-4)


def test_many_threads_give_the_same():
    x = torch.randn(2, 3, 200, 150)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 5):
        torch.set_num_threads(threads)
        try:
            found.append(upfirdn2d.upsample2d(x, F1331))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*found)


def test_strides_beyond_32_bits():
    x = torch.randn(1, 1, 8, 8)
    far = x.as_strided(x.shape, (2**45, 2**44, 8, 1))
    assert torch.equal(upfirdn2d.upsample2d(far, F1331), upfirdn2d.upsample2d(x, F1331))
    b = torch.randn(1)
    assert torch.equal(bias_act.bias_act(far, b, act='lrelu'), bias_act.bias_act(x, b, act='lrelu'))


def test_padding_far_beyond_the_image():
    x = torch.randn(1, 2, 3, 3)
    y, y_ref = (upfirdn2d.upfirdn2d(x, F1331, padding=[1000, 2000, 3, 500], impl=impl) for impl in ('cuda', 'ref'))
    torch.testing.assert_close(y, y_ref)


def test_filters_in_float64_and_halves():
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    f = torch.rand(3, 3, dtype=torch.float64)
    torch.testing.assert_close(upfirdn2d.upfirdn2d(x, f), upfirdn2d.upfirdn2d(x, f, impl='ref'), rtol=1e-13, atol=1e-13)
    y = upfirdn2d.upfirdn2d(x.float(), f.half())
    torch.testing.assert_close(y, upfirdn2d.upfirdn2d(x.float(), f.half(), impl='ref'), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Dispatch


def test_the_kernels_are_what_runs(kernels, monkeypatch):
    called = []
    for name in ('bias_act', 'bias_act_grad', 'upfirdn2d'):
        original = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, _f=original, _n=name, **k: called.append(_n) or _f(*a, **k))
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    upfirdn2d.upsample2d(bias_act.bias_act(x, act='lrelu'), F1331).sum().backward()
    assert called == ['bias_act', 'upfirdn2d', 'upfirdn2d', 'bias_act_grad']
    called.clear()
    with native.reference_only():
        upfirdn2d.upsample2d(bias_act.bias_act(x, act='lrelu'), F1331).sum().backward()
    bias_act.bias_act(x, act='lrelu', impl='ref')
    assert called == []


OPERATORS = {
    'bias_act': (torch.ops.ada_gan.bias_act, lambda x, b: (x, b, 1, 'lrelu', 0.2, 1.4, 1.0)),
    'bias_act swish': (torch.ops.ada_gan.bias_act, lambda x, b: (x, b, 1, 'swish', 0.0, 1.4, None)),
    'bias_act_grad': (
        torch.ops.ada_gan.bias_act_grad,
        lambda x, b: (x, x.detach() + 1, None, torch.tanh(x.detach()), 1, 'tanh', 0.0, 1.0, None),
    ),
    'bias_act_grad2': (
        torch.ops.ada_gan.bias_act_grad2,
        lambda x, b: (x.detach(), x.detach() + 1, x.detach() - 1, None, None, 1, 'swish', 0.0, 1.0, None),
    ),
    'upfirdn2d': (torch.ops.ada_gan.upfirdn2d, lambda x, b: (x, F1331, (2, 1), (1, 3), (1, 2, 3, 4), False, 1.0)),
}


@pytest.mark.parametrize('name', OPERATORS)
@pytest.mark.parametrize('layout', ['contiguous', 'channels-last'])
@pytest.mark.filterwarnings('ignore')  # The check itself uses deprecated functions.
def test_registered_operators(name, layout, kernels, monkeypatch):
    op, arguments = OPERATORS[name]
    x = LAYOUTS[layout](torch.randn(2, 3, 6, 8)).requires_grad_()
    arguments = arguments(x, torch.randn(3, requires_grad=True))
    library.opcheck(op, arguments)
    with torch.no_grad():
        expected = op(*arguments)
        monkeypatch.setattr(native, 'kernels', lambda x: None)
        torch.testing.assert_close(op(*arguments), expected, rtol=1e-5, atol=1e-5)


def chain(x, b):
    x = bias_act.bias_act(x, b, act='lrelu', clamp=2.0)
    x = upfirdn2d.upsample2d(x, F1331)
    x = bias_act.bias_act(x, act='swish')
    return filtered_lrelu.filtered_lrelu(x, torch.ones(4), torch.ones(4), b, up=2, down=2, padding=3)


@pytest.mark.filterwarnings('ignore')  # deprecations inside torch.compile and torch.jit
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_functions_give_the_same(backend):
    x, b = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(3, requires_grad=True)
    compiled = torch.compile(chain, backend=backend, fullgraph=True)
    found = []
    for op in (compiled, chain):
        y = op(x, b)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, b))])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings('ignore')
def test_exported_programs_hold_the_operators():
    class Module(torch.nn.Module):
        def forward(self, x, b):
            return chain(x, b)

    x, b = torch.randn(2, 3, 8, 8), torch.randn(3)
    size = torch.export.Dim('batch', max=64)
    program = torch.export.export(Module(), (x, b), dynamic_shapes=({0: size}, None), strict=False)
    names = {str(node.target) for node in program.graph.nodes}
    assert {'ada_gan.bias_act.default', 'ada_gan.upfirdn2d.default'} <= names
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(program.module()(x, b), chain(x, b))


def test_transforms_of_functions():
    x, b = torch.randn(4, 3, 8, 8), torch.randn(3)
    y = torch.func.vmap(lambda x: chain(x[None], b)[0])(x)
    torch.testing.assert_close(y, chain(x, b), rtol=1e-5, atol=1e-5)
    gradient = torch.func.grad(lambda x: chain(x, b).square().sum())(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(chain(leaf, b).square().sum(), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_tensors_without_memory():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        assert chain(torch.empty(2, 3, 8, 8), torch.empty(3)).shape == (2, 3, 16, 16)
    assert chain(torch.empty(2, 3, 8, 8, device='meta'), torch.empty(3, device='meta')).shape[:2] == (2, 3)


def test_networks_with_kernels_can_be_copied_and_run_in_threads():
    """Neither modules nor threads hold a reference to the library."""
    x, b = torch.randn(2, 3, 8, 8), torch.randn(3)
    module = copy.deepcopy(torch.nn.Identity())
    expected, found = chain(module(x), b), []
    threads = [threading.Thread(target=lambda: found.append(chain(x, b))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected) for y in found) and len(found) == 3


@pytest.mark.filterwarnings('ignore:There is a performance drop')  # PyTorch computes such operators one by one.
@pytest.mark.parametrize(
    'function',
    [
        lambda x: upfirdn2d.upsample2d(x, upfirdn2d.setup_filter([1, 3, 3, 1])),
        lambda x: bias_act.bias_act(x, act='lrelu', clamp=0.7),
        lambda x: bias_act.bias_act(x, act='swish'),
        lambda x: filtered_lrelu.filtered_lrelu(x, torch.ones(4) / 4, torch.ones(4) / 4, up=2, down=2, padding=3),
    ],
    ids=['upfirdn2d', 'lrelu', 'swish', 'filtered_lrelu'],
)
def test_gradients_in_batches(function):
    x = torch.randn(2, 8, 9, 7, requires_grad=True)
    y = function(x.square())
    directions = torch.randn(3, *y.shape)
    (batched,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True, create_graph=True)
    singles = [torch.autograd.grad(y, x, dy, create_graph=True)[0] for dy in directions]
    torch.testing.assert_close(batched, torch.stack(singles))
    # Second derivatives
    (ours,), (expected,) = (
        torch.autograd.grad(found.square().sum(), x, retain_graph=True) for found in (batched, torch.stack(singles))
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
