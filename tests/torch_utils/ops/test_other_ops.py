"""`filtered_lrelu`, `grid_sample` and `fma` beyond the golden values."""

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import upfirdn2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.fma import fma
from torch_utils.ops.grid_sample_gradfix import deterministic_input_gradient, grid_sample

both_impls = pytest.mark.parametrize('impl', ['ref', 'cuda'])
LOWPASS = upfirdn2d.setup_filter([1, 3, 6, 8, 8, 6, 3, 1])


# filtered_lrelu


@both_impls
@pytest.mark.parametrize(
    'options',
    [
        {'fu': LOWPASS, 'fd': LOWPASS, 'up': 2, 'down': 2, 'padding': [7, 6, 7, 6]},
        {'fu': LOWPASS, 'up': 4, 'padding': 3, 'clamp': 0.5, 'slope': 0.1},
        {'fd': LOWPASS, 'down': 2, 'padding': [3, 4], 'slope': 0, 'gain': 1.0, 'flip_filter': True},
    ],
)
def test_filtered_lrelu_derivatives(options, impl):
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def op(x, b):
        return filtered_lrelu(x, b=b, **options, impl=impl)

    assert torch.autograd.gradcheck(op, (x, b), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, b), fast_mode=True)


def test_filtered_lrelu_on_an_empty_batch():
    assert filtered_lrelu(torch.zeros(0, 3, 8, 8), LOWPASS, LOWPASS, torch.zeros(3), up=2, down=2, padding=7).shape == (
        0,
        3,
        8,
        8,
    )


@pytest.mark.parametrize(
    'options, words',
    [
        ({'up': 0}, 'up=0'),
        ({'down': [2, 2]}, 'down='),
        ({'impl': 'gpu'}, "impl='gpu'"),
        ({'b': torch.zeros(4)}, 'b must have the shape'),
        ({'x': torch.zeros(8, 8)}, r'\[N, C, H, W\]'),
    ],
)
def test_filtered_lrelu_wrong_calls(options, words):
    with pytest.raises(ValueError, match=words):
        filtered_lrelu(**{'x': torch.zeros(1, 3, 8, 8)} | options)


# grid_sample


def image_and_grid(n=2, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(n, 3, 5, 6, dtype=dtype), torch.rand(n, 4, 7, 2, dtype=dtype) * 2.6 - 1.3


def test_grid_sample_samples():
    image, grid = image_and_grid(dtype=torch.float32)
    expected = F.grid_sample(image, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    assert torch.equal(grid_sample(image, grid), expected)
    assert grid_sample(*image_and_grid(n=0)).shape == (0, 3, 4, 7)


def test_grid_sample_derivatives_in_the_images():
    image, grid = image_and_grid()
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grid_sample(x, grid), image)
    assert torch.autograd.gradgradcheck(lambda x: grid_sample(x, grid), image)


def test_grid_sample_derivatives_through_a_nonlinearity():
    image, grid = image_and_grid()
    image.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: grid_sample(x.sin(), grid).square(), image, fast_mode=True)


def test_repeatable_gradient_in_the_images():
    image, grid = image_and_grid()
    grid = grid * 1.5  # Some positions are outside, some at the borders.
    output = grid_sample(image.requires_grad_(), grid)
    d_output = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, image, d_output)
    assert torch.allclose(deterministic_input_gradient(d_output, grid, image.shape), expected, rtol=1e-12, atol=1e-12)


def test_grid_sample_first_derivative_in_the_grid():
    image, grid = image_and_grid()
    image.requires_grad_()
    grid.requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, (image, grid))


def test_gradient_of_the_images_is_differentiable_in_the_grid():
    image, grid = image_and_grid()
    dy = torch.randn(2, 3, 4, 7, dtype=torch.float64, requires_grad=True)
    grid.requires_grad_()
    image.requires_grad_()

    def image_gradient(grid, dy):
        return torch.autograd.grad(grid_sample(image, grid), image, dy, create_graph=True)[0]

    assert torch.autograd.gradcheck(image_gradient, (grid, dy))


def test_second_derivative_of_the_grid_is_refused():
    image, grid = image_and_grid()
    grid.requires_grad_()
    (d_grid,) = torch.autograd.grad(grid_sample(image, grid).square().sum(), grid, create_graph=True)
    with pytest.raises(NotImplementedError, match='detach the grid'):
        d_grid.sum().backward()


@pytest.mark.parametrize(
    'image_shape, grid_shape',
    [((3, 5, 6), (2, 4, 7, 2)), ((2, 3, 5, 6), (2, 4, 7, 3)), ((2, 3, 5, 6), (1, 4, 7, 2)), ((2, 3, 5, 6), (2, 4, 2))],
)
def test_grid_sample_wrong_calls(image_shape, grid_shape):
    with pytest.raises(ValueError, match='do not match'):
        grid_sample(torch.zeros(image_shape), torch.zeros(grid_shape))


# fma


@pytest.mark.parametrize(
    'shapes',
    [((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1), ()), ((1,), (2, 1, 4), (3, 1)), ((0, 3), (3,), (1, 3))],
)
def test_fma_broadcasts_and_differentiates(shapes):
    a, b, c = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    torch.testing.assert_close(fma(a, b, c), a * b + c)
    if fma(a, b, c).numel() > 0:
        assert torch.autograd.gradcheck(fma, (a, b, c))
        assert torch.autograd.gradgradcheck(fma, (a, b, c))
