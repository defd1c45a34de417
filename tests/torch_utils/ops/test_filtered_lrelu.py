"""`filtered_lrelu` on the CPU: the kernel, which makes one pass over the image, against the definition."""

import math

import pytest
import torch

from torch_utils.ops import cpu_kernels
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from training.networks_stylegan3 import Generator


def random_filter(taps: int, ndim: int, dtype: torch.dtype) -> torch.Tensor | None:
    return torch.randn([taps] * ndim, dtype=dtype) / taps**ndim if ndim else None


def values_and_derivatives(impl, x, b, fu, fd, options):
    """Return y, the gradients of x and b, and the derivative of the former with respect to the gradient of y."""
    x, b = x.clone().requires_grad_(), b.clone().requires_grad_()
    y = filtered_lrelu(x, fu, fd, b, **options, impl=impl)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=generator).requires_grad_()
    dx, db = torch.autograd.grad(y, [x, b], dy, create_graph=True)
    (d_dy,) = torch.autograd.grad(dx, dy, torch.randn(x.shape, dtype=x.dtype, generator=generator))
    with torch.no_grad():
        alone = filtered_lrelu(x, fu, fd, b, **options, impl=impl)
    return y, dx, db, d_dy, alone


def assert_close(actual, expected, tolerance):
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= tolerance * max(theirs.abs().max(), 1e-6)


@pytest.mark.parametrize('up', [1, 2, 3, 4])
@pytest.mark.parametrize('down', [1, 2, 3, 4])
@pytest.mark.parametrize(('up_ndim', 'down_ndim'), [(1, 1), (1, 2), (2, 1), (2, 2), (0, 1), (1, 0)])
def test_all_geometries(up, down, up_ndim, down_ndim):
    torch.manual_seed(0)
    dtype = torch.float64
    fu, fd = random_filter(3 * up, up_ndim, dtype), random_filter(3 * down + 1, down_ndim, dtype)
    b = torch.randn(2, dtype=dtype)
    for padding, size, flip_filter, clamp in (
        ([5, 7, 9, 4], (9, 13), False, None),
        ([-1, 12, 20, -2], (17, 14), True, 0.3),
        ([2, 0, 1, 0], (15, 300), False, 0.2),
    ):
        options = dict(up=up, down=down, padding=padding, slope=0.1, clamp=clamp, flip_filter=flip_filter)
        x = torch.randn(1, 2, *size, dtype=dtype)
        ours, reference = (values_and_derivatives(impl, x, b, fu, fd, options) for impl in ('cuda', 'ref'))
        assert_close(ours, reference, 1e-12)


@pytest.mark.parametrize('radial', [False, True])
def test_all_layers_of_stylegan3(radial):
    torch.manual_seed(0)
    G = Generator(8, 0, 8, 32, 3, channel_base=128, channel_max=3, use_radial_filters=radial)
    for name in G.synthesis.layer_names:
        layer = getattr(G.synthesis, name)
        width, height = (layer.in_size + layer.conv_kernel - 1).tolist()
        x = torch.randn(1, layer.out_channels, height, width, dtype=torch.float64)
        fu, fd = (None if f is None else f.double() for f in (layer.up_filter, layer.down_filter))
        options = dict(up=layer.up_factor, down=layer.down_factor, padding=layer.padding, clamp=256)
        b = torch.randn(layer.out_channels, dtype=torch.float64)
        ours, reference = (values_and_derivatives(impl, x, b, fu, fd, options) for impl in ('cuda', 'ref'))
        assert_close(ours, reference, 1e-12)
        singles = [None if f is None else f.float() for f in (fu, fd)]
        assert_close(
            values_and_derivatives('cuda', x.float(), b.float(), *singles, options)[:1], [reference[0].float()], 1e-5
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bit_types_are_computed_in_float32(dtype):
    torch.manual_seed(0)
    x, b, f = torch.randn(2, 3, 12, 12).to(dtype), torch.randn(3).to(dtype), torch.randn(8) / 8
    options = dict(up=2, down=2, padding=7)
    y = filtered_lrelu(x, f, f, b, **options)
    assert y.dtype == dtype and torch.equal(y, filtered_lrelu(x.float(), f, f, b.float(), **options).to(dtype))


def test_layouts_threads_and_groups_of_planes_give_the_same_numbers():
    torch.manual_seed(0)
    x, b, f = torch.randn(3, 37, 20, 19), torch.randn(37), torch.randn(12) / 12
    options = dict(up=2, down=2, padding=[11, 10, 10, 11], clamp=1)
    y = filtered_lrelu(x, f, f, b, **options)
    last = filtered_lrelu(x.contiguous(memory_format=torch.channels_last), f, f, b, **options)
    assert torch.equal(y, last) and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y[:, 5:6], filtered_lrelu(x[:, 5:6], f, f, b[5:6], **options))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(y, filtered_lrelu(x, f, f, b, **options))
    finally:
        torch.set_num_threads(threads)


def test_non_finite_values_appear_where_the_definition_has_them():
    f = torch.full([4], 0.25)
    x = torch.zeros(1, 8, 40, 40)
    x[0, 3, 20, 20], x[0, 5, 3, 3] = math.nan, math.inf
    ours, reference = (filtered_lrelu(x, f, f, up=2, down=2, padding=3, impl=impl) for impl in ('cuda', 'ref'))
    finite = ours.isfinite()
    assert not finite.all() and torch.equal(finite, reference.isfinite())


def test_images_that_are_smaller_than_the_filter():
    f = torch.ones(12)
    for impl in ('cuda', 'ref'):
        with pytest.raises(ValueError, match='upfirdn2d'):
            filtered_lrelu(torch.zeros(1, 1, 4, 4), f, f, up=1, down=1, impl=impl)


def test_memory_of_the_upsampled_image_is_not_needed(monkeypatch):
    sizes = []
    empty = torch.empty
    monkeypatch.setattr(
        cpu_kernels.torch, 'empty', lambda size, **k: (sizes.append(math.prod(size)), empty(size, **k))[1]
    )
    x, f = torch.zeros(1, 4, 32, 32, requires_grad=True), torch.ones(12)
    filtered_lrelu(x, f, f, up=2, down=2, padding=[11, 11, 11, 11])
    assert sorted(sizes) == [4 * 32 * 32, 4 * 75 * 76]  # y, and the mask in bytes
