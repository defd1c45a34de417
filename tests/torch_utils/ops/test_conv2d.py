"""`conv2d_resample`, in all cases against its definition, and `conv2d_gradfix`."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from torch_utils.ops import conv2d_gradfix, conv2d_resample, upfirdn2d

FILTERS = {
    '1331': upfirdn2d.setup_filter([1, 3, 3, 1]),
    'odd': upfirdn2d.setup_filter([1, 2, 1]),
    'long': upfirdn2d.setup_filter(range(1, 10)),
    'none': None,
}


def definition(x, w, f, up, down, padding, groups, flip_weight, flip_filter):
    """Upsample, convolve, downsample with stock operators; sizes are kept apart from `padding`."""
    taps = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    sides = list(padding)
    for axis, k in enumerate(taps):
        if up > 1:
            sides[2 * axis] += (k + up - 1) // 2
            sides[2 * axis + 1] += (k - up) // 2
        if down > 1:
            sides[2 * axis] += (k - down + 1) // 2
            sides[2 * axis + 1] += (k - down) // 2
    x = upfirdn2d.upfirdn2d(
        x, f if up > 1 else None, up=up, padding=sides, gain=up**2, flip_filter=flip_filter, impl='ref'
    )
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d.upfirdn2d(x, f if down > 1 else None, down=down, flip_filter=flip_filter, impl='ref')


@pytest.mark.parametrize('name', FILTERS)
@pytest.mark.parametrize('up, down', [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (3, 2)])
@pytest.mark.parametrize('kernel', [1, 2, 3])
def test_agrees_with_the_definition(name, up, down, kernel):
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    paddings = [(kernel // 2,) * 4, (0, 3, 2, 1), (5, 5, 5, 5), (-1, -1, -2, 0)]
    for padding, groups, flip_weight in itertools.product(paddings, (1, 2), (True, False)):
        if min(x.shape[2:]) * up + min(padding[0] + padding[1], padding[2] + padding[3]) < kernel + down:
            continue
        w = torch.randn(6, 4 // groups, kernel, kernel, dtype=torch.float64)
        arguments = (x, w, FILTERS[name], up, down, padding, groups, flip_weight, True)
        torch.testing.assert_close(conv2d_resample.conv2d_resample(*arguments), definition(*arguments))


@pytest.mark.parametrize(
    'up, down, kernel, padding',
    [(1, 1, 3, 1), (2, 1, 3, 1), (1, 2, 3, 1), (2, 1, 1, 0), (1, 2, 1, 0), (2, 2, 3, 1), (1, 1, 3, [1, 0, 2, 1])],
)
def test_derivatives(up, down, kernel, padding):
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)

    def op(x, w):
        return conv2d_resample.conv2d_resample(
            x, w, FILTERS['1331'], up=up, down=down, padding=padding, flip_weight=False
        )

    assert torch.autograd.gradcheck(op, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, w), fast_mode=True)


@pytest.mark.parametrize('up, down', [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize('kernel', [1, 3])
def test_empty_batch_and_channels_last(up, down, kernel):
    w = torch.randn(3, 2, kernel, kernel)
    options = {'up': up, 'down': down, 'padding': kernel // 2}
    y = conv2d_resample.conv2d_resample(torch.zeros(0, 2, 8, 8), w, FILTERS['1331'], **options)
    assert y.shape == (0, 3, 8 * up // down, 8 * up // down)
    x = torch.randn(2, 2, 8, 8)
    y, y_last = (
        conv2d_resample.conv2d_resample(x.contiguous(memory_format=layout), w, FILTERS['1331'], **options)
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    torch.testing.assert_close(y, y_last, rtol=1e-4, atol=1e-5, check_stride=False)


@pytest.mark.parametrize(
    'options, words',
    [
        ({'w': torch.zeros(3, 3, 1, 1)}, 'do not match'),
        ({'w': torch.zeros(3, 2, 1)}, 'do not match'),
        ({'groups': 2}, 'do not match'),
        ({'up': 0}, 'up=0'),
        ({'down': 1.5}, 'down=1.5'),
        ({'padding': 'same'}, 'padding'),
        ({'x': torch.zeros(2, 8, 8)}, r'\[N, C, H, W\]'),
    ],
)
def test_wrong_calls(options, words):
    arguments = {'x': torch.zeros(1, 2, 8, 8), 'w': torch.zeros(3, 2, 3, 3)} | options
    with pytest.raises(ValueError, match=words):
        conv2d_resample.conv2d_resample(**arguments)


def test_gradfix_has_the_signatures_of_torch():
    x, w, b = torch.randn(2, 4, 9, 9), torch.randn(6, 2, 3, 3), torch.randn(6)
    torch.testing.assert_close(conv2d_gradfix.conv2d(x, w, b, 2, 1, 2, 2), F.conv2d(x, w, b, 2, 1, 2, 2))
    w = torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(
        conv2d_gradfix.conv_transpose2d(x, w, b, 2, 1, 1, 2, 2), F.conv_transpose2d(x, w, b, 2, 1, 1, 2, 2)
    )


@pytest.mark.parametrize('conv', [conv2d_gradfix.conv2d, conv2d_gradfix.conv_transpose2d])
@pytest.mark.parametrize('create_graph', [False, True])
def test_gradients_of_images_do_not_compute_gradients_of_weights(conv, create_graph):
    """This holds even without `no_weight_gradients`."""
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    w = torch.randn(3, 3, 3, 3, requires_grad=True)

    def flops_of_gradients(wanted):
        y = conv(x, w, padding=1)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(y.square().sum(), wanted, create_graph=create_graph)
        return counter.get_total_flops()

    with conv2d_gradfix.no_weight_gradients():
        alone = flops_of_gradients([x])
    assert alone > 0
    assert flops_of_gradients([x, w]) == pytest.approx(2 * alone)
