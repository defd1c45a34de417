"""Bilinear sampling of images at given positions, differentiable twice.

PyTorch's own `grid_sample` can be differentiated once. Its gradient in the images, though, is linear in the gradient
that comes in, and the transpose of that linear map is the sampling itself; so the second derivative (which R1 needs
where the discriminator sees augmented images) is one more call of the same function.
"""

import torch
import torch.nn.functional as F

BILINEAR, ZEROS = 0, 0  # PyTorch's numbers for the interpolation and for what lies outside of the image.


def grid_sample(input, grid):
    """Sample images bilinearly, with zeros outside; pixels are squares (`align_corners=False`).

    Args:
        input: float tensor [N, C, H, W].
        grid: positions [N, H', W', 2] of input's type, as (x, y); -1 and +1 are the borders of the image.

    Returns: tensor [N, C, H', W'].

    First derivatives in both arguments. Second derivatives of whatever involves `input`; what would differentiate the
    gradient of `grid` once more raises NotImplementedError.
    """
    if input.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or input.shape[0] != grid.shape[0]:
        raise ValueError(
            f'grid_sample: input of shape {list(input.shape)} and grid of shape {list(grid.shape)} do not '
            f"fit; they must be [N, C, H, W] and [N, H', W', 2]"
        )
    return _Sample.apply(input, grid)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input, grid)
        return F.grid_sample(input, grid, mode='bilinear', padding_mode='zeros', align_corners=False)

    @staticmethod
    def backward(ctx, d_output):
        input, grid = ctx.saved_tensors
        d_input, d_grid = _SampleGradient.apply(d_output, input, grid, ctx.needs_input_grad)
        return d_input, d_grid


class _SampleGradient(torch.autograd.Function):
    """The gradients of `_Sample` in (input, grid); None for one that `wanted` leaves out."""

    @staticmethod
    def forward(ctx, d_output, input, grid, wanted):
        ctx.save_for_backward(d_output, grid)
        ctx.set_materialize_grads(False)
        if d_output.is_cuda and torch.are_deterministic_algorithms_enabled() and not wanted[1]:
            return repeatable_input_gradient(d_output, grid, input.shape), None
        d_input, d_grid = torch.ops.aten.grid_sampler_2d_backward(
            d_output, input, grid, BILINEAR, ZEROS, False, output_mask=list(wanted)
        )
        return d_input if wanted[0] else None, d_grid if wanted[1] else None

    @staticmethod
    def backward(ctx, d2_input, d2_grid):
        if d2_grid is not None:
            raise NotImplementedError(
                'grid_sample: the gradient of the grid cannot be differentiated once more; '
                'detach the grid, or take first derivatives only'
            )
        d_output, grid = ctx.saved_tensors
        if d2_input is None:
            return None, None, None, None
        again = grid_gradient = None
        if ctx.needs_input_grad[0]:
            again = _Sample.apply(d2_input, grid)
        if ctx.needs_input_grad[2]:  # <d2_input, d_input> = <sample(d2_input, grid), d_output>
            _, grid_gradient = _SampleGradient.apply(d_output, d2_input, grid, (False, True))
        return again, None, grid_gradient, None


def repeatable_input_gradient(d_output, grid, shape):
    """The gradient of `grid_sample` in its input of the given shape, summed in the same order each time.

    PyTorch's kernel on CUDA adds up in whatever order its threads arrive. `index_add_` does not where deterministic
    algorithms are asked for. Slower, and larger in memory.
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
