"""`upfirdn2d` beyond the golden values: derivatives in float64, layouts, odd inputs, wrong calls."""

import itertools

import numpy as np
import pytest
import torch

from torch_utils.ops import native, upfirdn2d

TAPS_1331 = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
TAPS_UNEVEN = torch.tensor([[1.0, 2, 0], [-3, 1, 2]])
TAPS_LONG = torch.linspace(-0.2, 1, 9)
FILTERS = {'1331': TAPS_1331, 'uneven': TAPS_UNEVEN, 'long': TAPS_LONG, 'none': None}
GEOMETRIES = [
    {},
    {'up': 2, 'padding': [2, 1, 2, 1], 'gain': 4},
    {'down': 2, 'padding': [4, 4, 5, 5], 'flip_filter': True},
    {'up': [2, 3], 'down': [3, 1], 'padding': [9, -1, -2, 10], 'gain': 0.3},
    {'up': [1, 4], 'down': [2, 3], 'padding': 8},
]
all_impls = pytest.mark.parametrize('impl', ['ref', 'native', 'pytorch'], indirect=True)
both_backends = pytest.mark.parametrize('backend', ['native', 'pytorch'], indirect=True)
all_filters = pytest.mark.parametrize('name', FILTERS)
all_geometries = pytest.mark.parametrize('options', GEOMETRIES, ids=range(len(GEOMETRIES)))


def naive(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1):
    """Pixel by pixel, from the definition; up and down are (x, y)."""
    if f.ndim == 1:
        f = torch.outer(f, f)
    x0, x1, y0, y1 = padding
    rows, columns = x.shape
    plane = {(i * up[1] + y0, j * up[0] + x0): x[i, j].item() for i in range(rows) for j in range(columns)}
    height, width = rows * up[1] + y0 + y1, columns * up[0] + x0 + x1
    kh, kw = f.shape
    taps = f if flip_filter else f.flip([0, 1])
    y = torch.zeros((height - kh) // down[1] + 1, (width - kw) // down[0] + 1, dtype=x.dtype)
    for (o, p), (k, l) in itertools.product(
        itertools.product(range(y.shape[0]), range(y.shape[1])), itertools.product(range(kh), range(kw))
    ):
        y[o, p] += taps[k, l].item() * plane.get((o * down[1] + k, p * down[0] + l), 0) * gain
    return y


@all_impls
@pytest.mark.parametrize('f', [TAPS_UNEVEN, TAPS_1331, TAPS_LONG[:3]])
@pytest.mark.parametrize(
    'options',
    [
        {'up': (2, 1), 'down': (1, 2), 'padding': (2, 1, 3, 1), 'gain': 2.0},
        {'up': (3, 2), 'down': (2, 3), 'padding': (1, -2, -1, 4), 'flip_filter': True},
    ],
)
def test_agrees_with_the_definition(f, options, impl):
    x = torch.randn(5, 6, dtype=torch.float64)
    y = upfirdn2d.upfirdn2d(x[None, None], f, **options, impl=impl)[0, 0]
    torch.testing.assert_close(y, naive(x, f, **options), rtol=1e-6, atol=1e-6)


@all_impls
@all_filters
@all_geometries
def test_derivatives(name, options, impl):
    x = torch.randn(2, 2, 9, 10, dtype=torch.float64, requires_grad=True)

    def op(x):
        return upfirdn2d.upfirdn2d(x, FILTERS[name], **options, impl=impl)

    assert torch.autograd.gradcheck(op, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, x, fast_mode=True)


@both_backends
@all_filters
@all_geometries
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('shape', [(2, 3, 11, 13), (0, 3, 11, 13), (1, 2, 9, 260)], ids=['odd', 'empty', 'wide'])
@pytest.mark.parametrize('channels_last', [False, True], ids=['nchw', 'nhwc'])
def test_backends_agree(name, options, dtype, channels_last, shape, backend):
    x = torch.randn(shape).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y, y_ref = (upfirdn2d.upfirdn2d(x, FILTERS[name], **options, impl=impl) for impl in ('cuda', 'ref'))
    assert y.dtype == dtype
    if y.numel() > 0:
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    torch.testing.assert_close(
        y,
        y_ref,
        rtol=0.02 if dtype.itemsize == 2 else 1e-5,
        atol=0.05 if dtype.itemsize == 2 else 1e-5,
        check_stride=False,
    )


@all_impls
@all_filters
@all_geometries
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [(2, 3, 11, 13), (1, 2, 9, 260)], ids=['odd', 'wide'])
def test_16_bit_types_are_accurate(name, options, dtype, shape, impl):
    """Compare with float64. The error is bounded by the roundings to 16 bits that an implementation needs.

    These are, in each pass over a filter, the roundings of the taps, unless they are exact, and of the result. There
    are two passes if the filter is an outer product. The rounding errors of sums in float32 are negligible.
    """
    x = torch.randn(shape).to(dtype)
    f = upfirdn2d.setup_filter(1.0) if FILTERS[name] is None else FILTERS[name]
    y = upfirdn2d.upfirdn2d(x, f, **options, impl=impl)
    exact = upfirdn2d.upfirdn2d(x.double(), f.double(), **options, impl='ref')
    magnitude = upfirdn2d.upfirdn2d(x.double().abs(), f.double().abs(), **options, impl='ref')
    taps = f * options.get('gain', 1)
    roundings = (1 if name == 'uneven' else 2) * (1 if torch.equal(taps.to(dtype).float(), taps) else 2)
    allowed = 1.01 * roundings * torch.finfo(dtype).eps / 2 * magnitude + torch.finfo(dtype).tiny
    assert ((y.double() - exact).abs() <= allowed).all()


@all_filters
@all_geometries
def test_strided_convolutions_agree(name, options, monkeypatch):
    """The implementation for other devices and for large images."""
    monkeypatch.setattr(native, 'kernels', lambda x: None)
    monkeypatch.setattr(upfirdn2d, '_suits_matrix_products', lambda *_: False)
    x = torch.randn(2, 3, 11, 10, dtype=torch.float64, requires_grad=True)
    results = []
    for impl in ('cuda', 'ref'):
        y = upfirdn2d.upfirdn2d(x, FILTERS[name], **options, impl=impl)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@both_backends
@all_filters
@all_geometries
def test_derivatives_agree_for_non_contiguous_images(name, options, backend):
    x = torch.randn(2, 12, 3, 22, dtype=torch.float64).permute(0, 2, 3, 1)[:, :, ::2].requires_grad_()
    results = []
    for impl in ('cuda', 'ref'):
        y = upfirdn2d.upfirdn2d(x, FILTERS[name], **options, impl=impl)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (d2x,) = torch.autograd.grad(dx.square().sum(), x)
        results.append((y, dx, d2x))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@both_backends
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('options', GEOMETRIES, ids=range(len(GEOMETRIES)))
@pytest.mark.parametrize('f', [TAPS_1331, TAPS_LONG.abs() + 1])
def test_non_finite_pixels_affect_only_the_support_of_the_filter(bad, options, f, backend):
    x = torch.randn(1, 2, 30, 33, requires_grad=True)
    with torch.no_grad():
        x[0, 1, 14, 15] = bad
    y, y_ref = (upfirdn2d.upfirdn2d(x, f, **options, impl=impl) for impl in ('cuda', 'ref'))
    assert torch.equal(y.isfinite(), y_ref.isfinite())
    assert not y.isfinite().all()
    assert y[0, 0].isfinite().all()
    dy = torch.ones_like(y)
    dy[0, 0, 3, 3] = bad
    dx, dx_ref = (torch.autograd.grad(out, x, dy)[0] for out in (y, y_ref))
    assert torch.equal(dx.isfinite(), dx_ref.isfinite())


def test_matrices_cached_in_inference_mode_work_in_training():
    f = torch.tensor([0.25, 0.11, 0.64])
    x = torch.randn(1, 1, 7, 7, requires_grad=True)
    with torch.inference_mode():
        upfirdn2d.upfirdn2d(x, f, up=2, padding=2)
    y = upfirdn2d.upfirdn2d(x, f, up=2, padding=2)
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_filter_may_require_gradients():
    f = TAPS_1331.double().requires_grad_()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: upfirdn2d.upfirdn2d(x, f, up=2, padding=3), f)


def test_brightness_is_preserved():
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    x = torch.ones(1, 1, 8, 8)
    inner = upfirdn2d.upsample2d(x, f)[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))
    inner = upfirdn2d.downsample2d(x, f)[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.ones_like(inner))


@pytest.mark.parametrize('taps', [[1, 3, 3, 1], [1, 2, 1], list(range(1, 9)), [[1, 2], [3, 4], [5, 6]]])
@pytest.mark.parametrize('padding', [0, 3, [1, 2], [1, 0, 2, 3]])
def test_sizes_of_the_results(taps, padding):
    f = upfirdn2d.setup_filter(taps)
    x = torch.zeros(1, 1, 12, 18)
    px, py = {
        int: lambda p: (2 * p, 2 * p),
        list: lambda p: (2 * p[0], 2 * p[1]) if len(p) == 2 else (p[0] + p[1], p[2] + p[3]),
    }[type(padding)](padding)
    assert upfirdn2d.filter2d(x, f, padding=padding).shape[2:] == (12 + py, 18 + px)
    assert upfirdn2d.upsample2d(x, f, up=3, padding=padding).shape[2:] == (36 + py, 54 + px)
    assert upfirdn2d.downsample2d(x, f, down=2, padding=padding).shape[2:] == ((12 + py) // 2, (18 + px) // 2)


def test_numpy_integers_are_accepted():
    x = torch.randn(1, 1, 8, 8)
    y = upfirdn2d.upfirdn2d(x, TAPS_1331, up=np.int64(2), padding=np.array([1, 2]))
    assert torch.equal(y, upfirdn2d.upfirdn2d(x, TAPS_1331, up=2, padding=[1, 2]))


def test_setup_filter():
    assert upfirdn2d.setup_filter([1, 3, 3, 1]).shape == (4, 4)
    assert upfirdn2d.setup_filter([1] * 8).shape == (8,)
    assert upfirdn2d.setup_filter([1, 3, 3, 1], separable=True).shape == (4,)
    assert upfirdn2d.setup_filter([1] * 8, separable=False).shape == (8, 8)
    assert upfirdn2d.setup_filter(3.0, normalize=False).tolist() == [[9.0]]
    assert upfirdn2d.setup_filter([1, 3], separable=True, gain=4).tolist() == [0.5, 1.5]
    assert upfirdn2d.setup_filter([1, 3], separable=True, flip_filter=True).tolist() == [0.75, 0.25]
    assert upfirdn2d.setup_filter([[1, 2], [3, 4]], gain=10, flip_filter=True).tolist() == [[4, 3], [2, 1]]


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, impl='native'), "impl='native'"),
        (lambda x, f: upfirdn2d.upfirdn2d(x[0], f), r'\[N, C, H, W\]'),
        (lambda x, f: upfirdn2d.upfirdn2d(x.int(), f), 'floating-point'),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f[None]), r'\[kh, kw\] or \[k\]'),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, up=0), 'up=0'),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, down=1.5 * torch.ones(3)), 'down='),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, up=[1, 2, 3]), 'up='),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, up=2.0), 'up=2.0'),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, up=True), 'up=True'),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, padding=[1, 2, 3]), 'padding='),
        (lambda x, f: upfirdn2d.upfirdn2d(x, f, padding=-4), 'smaller than the filter'),
        (lambda x, f: upfirdn2d.setup_filter(torch.ones(2, 2, 2)), 'vector or a matrix'),
        (lambda x, f: upfirdn2d.setup_filter([]), 'at least one tap'),
        (lambda x, f: upfirdn2d.setup_filter(f, separable=True), 'separable=True'),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 1, 8, 8), TAPS_1331)


@pytest.mark.filterwarnings('ignore')  # Tracing is deprecated, and warns about each size that becomes a constant.
def test_traced_and_compiled_functions_give_the_same():
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    x = torch.randn(2, 3, 8, 8)
    expected = upfirdn2d.upsample2d(x, f)
    traced = torch.jit.trace(lambda x: upfirdn2d.upsample2d(x, f), x)
    torch.testing.assert_close(traced(x), expected)
    compiled = torch.compile(lambda x: upfirdn2d.upsample2d(x, f), backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
