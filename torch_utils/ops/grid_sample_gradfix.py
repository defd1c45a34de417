"""Bilinear sampling of images at given positions, differentiable twice.

PyTorch's own `grid_sample` can be differentiated only once. However, its gradient with respect to the images is linear
in the incoming gradient, and the transpose of that linear map is the sampling itself. So the second derivative, which
R1 needs if the discriminator sees augmented images, is another call of the same function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BILINEAR, ZEROS = 0, 0  # PyTorch's codes for the interpolation mode and the padding mode


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """Sample images bilinearly, with zeros outside the image and `align_corners=False`.

    First derivatives are supported with respect to both arguments; second derivatives with respect to everything except
    the gradient of `grid`, which raises NotImplementedError.

    Args:
        input: Floating-point tensor [N, C, H, W].
        grid: Positions [N, H', W', 2] as (x, y), with input's type; -1 and +1 are the borders of the image.

    Returns:
        Tensor [N, C, H', W'].

    Raises:
        ValueError: The shapes do not match.
    """
    if input.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or input.shape[0] != grid.shape[0]:
        raise ValueError(
            f'grid_sample: input of shape {list(input.shape)} and grid of shape {list(grid.shape)} do not '
            f"match; they must be [N, C, H, W] and [N, H', W', 2]"
        )
    return _Sample.apply(input, grid)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(input, grid)
        return F.grid_sample(input, grid, mode='bilinear', padding_mode='zeros', align_corners=False)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        input, grid = ctx.saved_tensors
        d_input, d_grid = _SampleGradient.apply(*d_outputs, input, grid, ctx.needs_input_grad)
        return d_input, d_grid


class _SampleGradient(torch.autograd.Function):
    """The gradients of `_Sample` with respect to (input, grid). `needed` says which of the two to compute."""

    @staticmethod
    def forward(
        ctx: Any, d_output: Tensor, input: Tensor, grid: Tensor, needed: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(d_output, grid)
        ctx.set_materialize_grads(False)
        if d_output.is_cuda and torch.are_deterministic_algorithms_enabled() and not needed[1]:
            return deterministic_input_gradient(d_output, grid, input.shape), None
        d_input, d_grid = torch.ops.aten.grid_sampler_2d_backward(
            d_output, input, grid, BILINEAR, ZEROS, False, output_mask=list(needed)
        )
        return d_input if needed[0] else None, d_grid if needed[1] else None

    @staticmethod
    def backward(ctx: Any, *d_gradients: Any) -> tuple[Tensor | None, None, Tensor | None, None]:
        d2_input, d2_grid = d_gradients
        if d2_grid is not None:
            raise NotImplementedError(
                'grid_sample: the gradient of the grid cannot be differentiated again; '
                'detach the grid, or use first derivatives only'
            )
        d_output, grid = ctx.saved_tensors
        if d2_input is None:
            return None, None, None, None
        d_output_gradient = grid_gradient = None
        if ctx.needs_input_grad[0]:
            d_output_gradient = _Sample.apply(d2_input, grid)
        if ctx.needs_input_grad[2]:  # <d2_input, d_input> = <sample(d2_input, grid), d_output>
            _, grid_gradient = _SampleGradient.apply(d_output, d2_input, grid, (False, True))
        return d_output_gradient, None, grid_gradient, None


def deterministic_input_gradient(d_output: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of `grid_sample` with respect to its input, summed in the same order every time.

    PyTorch's CUDA kernel adds contributions in the order in which its threads arrive, but `index_add_` is deterministic
    if deterministic algorithms are enabled. This is slower and takes more memory.

    Args:
        d_output: Gradient of the output, [N, C, H', W'].
        grid: Positions [N, H', W', 2].
        shape: Shape of the input, [N, C, H, W].

    Returns:
        Tensor [N, C, H, W].
    """
    n, c, height, width = shape
    x = (grid[..., 0] + 1) * (width / 2) - 0.5  # [N, H', W'], in pixels
    y = (grid[..., 1] + 1) * (height / 2) - 0.5
    left, top = x.floor(), y.floor()
    first = (torch.arange(n, device=grid.device) * (height * width)).reshape(n, 1, 1)
    d_pixels = d_output.new_zeros([n * height * width, c])
    values = d_output.permute(0, 2, 3, 1)  # [N, H', W', C]
    for column, x_weight in ((left, left + 1 - x), (left + 1, x - left)):
        for row, y_weight in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = first + row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            weighted = values * (x_weight * y_weight * inside)[..., None]
            d_pixels.index_add_(0, index.flatten(), weighted.reshape(-1, c))
    return d_pixels.reshape(n, height, width, c).permute(0, 3, 1, 2).contiguous()
