"""The nonlinearity of StyleGAN3 (arXiv 2106.12423, section 3.1): leaky ReLU at a higher sampling rate.

Upsampling, filter, leaky ReLU, filter, downsampling: the high frequencies that the leaky ReLU creates are removed by
the second filter before they can alias. Without a fused kernel, `upfirdn2d` and `bias_act` do the work.

The fused kernels keep the upsampled image in fast memory and write only a mask of it, which determines the slope at
each pixel: two bits on a GPU, a byte on a CPU. With a fixed mask the operation is linear, and its transpose is again
upsampling, mask and downsampling (`MaskedResampling.transposed`), so one function computes all derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, library

from torch_utils.ops import native
from torch_utils.ops.arguments import check_image_batch, check_impl, parse_factor, parse_padding
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.resampling import FilteredActivation, MaskedResampling
from torch_utils.ops.upfirdn2d import upfirdn2d


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = 'cuda',
) -> Tensor:
    """Add a bias, upsample, apply a leaky ReLU, and downsample.

    Args:
        x: Floating-point tensor [N, C, H, W].
        fu: Upsampling filter from `upfirdn2d.setup_filter`, or None.
        fd: Downsampling filter from `upfirdn2d.setup_filter`, or None.
        b: Bias [C], or None.
        up: Upsampling factor.
        down: Downsampling factor.
        padding: Padding with respect to the upsampled image, an integer, [x, y] or [x0, x1, y0, y1].
        gain: Factor applied after the leaky ReLU.
        slope: Slope of the leaky ReLU for negative inputs.
        clamp: Largest magnitude before the downsampling, or None for no limit.
        flip_filter: False for convolution with the filters; True for correlation.
        impl: 'cuda' for the fastest implementation available, 'ref' for plain PyTorch.

    Returns:
        Tensor [N, C, H', W'] of x's type.

    Raises:
        ValueError: An argument is invalid.
    """
    check_impl('filtered_lrelu', impl)
    check_image_batch('filtered_lrelu', x)
    up, down = parse_factor('filtered_lrelu', 'up', up), parse_factor('filtered_lrelu', 'down', down)
    if impl == 'cuda' and slope >= 0 and gain > 0 and (clamp is None or clamp >= 0) and x.numel() > 0:
        sides = parse_padding('filtered_lrelu', padding)
        limit = None if clamp is None else float(clamp)
        options = FilteredActivation(up, down, sides, float(gain), float(slope), limit, bool(flip_filter))
        kernels = _kernels(x, fu, fd, b, options)
        if kernels is not None:
            return _fused(kernels, x, fu, fd, None if b is None else b.to(x.dtype), options)
    # The definition, composed of the other operators.
    x = bias_act(x, b, impl=impl)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter, impl=impl)
    x = bias_act(x, act='lrelu', alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter, impl=impl)


# ---------------------------------------------------------------------------------------------------------------------
# Fused kernel


def _kernels(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, options: FilteredActivation
) -> ModuleType | None:
    """Return the module of kernels for a call, or None. Traced or transformed calls use the other operators."""
    if native.route(x) != 'eager':
        return None
    if any(f is not None and f.requires_grad for f in (fu, fd)) or (b is not None and b.shape != (x.shape[1],)):
        return None
    kernels = native.kernels(x)
    if kernels is None or not kernels.supports_filtered_lrelu(x, fu, fd, options.up, options.down):
        return None
    # If images are smaller than the filters, the other operators raise the error.
    return kernels if min(options.output_size(x.shape, fu, fd)) > 0 else None


def _fused(
    kernels: ModuleType, x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, options: FilteredActivation
) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
        return _FilteredLrelu.apply(x, b, fu, fd, options)
    y, _mask = kernels.filtered_lrelu(x, fu, fd, b, options, want_mask=False)
    return y


class _FilteredLrelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, b: Tensor | None, fu: Tensor | None, fd: Tensor | None, options: FilteredActivation
    ) -> Tensor:
        kernels = native.kernels(x)
        assert kernels is not None
        y, mask = kernels.filtered_lrelu(x, fu, fd, b, options, want_mask=True)
        ctx.save_for_backward(mask, fd, fu)  # in the order in which the backward pass applies the filters
        ctx.masked = options.masked(x.shape, fu, fd).transposed(fu, fd)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grad_outputs
        mask, first_filter, second_filter = ctx.saved_tensors
        dx = _apply_mask(dy, mask, first_filter, second_filter, ctx.masked)
        db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[1] else None
        return dx, db, None, None, None


def _apply_mask(x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, masked: MaskedResampling) -> Tensor:
    """Compute a derivative by the kernel, or by the registered operator where the gradient itself is transformed."""
    if native.route(x) == 'eager':
        return _ApplyMask.apply(x, mask, fu, fd, masked)
    return torch.ops.ada_gan.filtered_lrelu_masked(x, mask, fu, fd, *masked)


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, masked: MaskedResampling
    ) -> Tensor:
        ctx.save_for_backward(mask, fd, fu)
        ctx.masked = masked.transposed(fu, fd)
        return _compute_masked(x, mask, fu, fd, masked)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grad_outputs
        mask, first_filter, second_filter = ctx.saved_tensors
        return _apply_mask(dy, mask, first_filter, second_filter, ctx.masked), None, None, None, None


def _compute_masked(x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, masked: MaskedResampling) -> Tensor:
    kernels = native.kernels(x)
    assert kernels is not None  # they have written the mask
    return kernels.filtered_lrelu_masked(x, mask, fu, fd, masked)


# ---------------------------------------------------------------------------------------------------------------------
# Registered operator
#
# torch.ops.ada_gan.filtered_lrelu_masked, for gradients in batches: torch.autograd.grad(..., is_grads_batched=True).


@library.custom_op(
    'ada_gan::filtered_lrelu_masked',
    mutates_args=(),
    schema='(Tensor x, Tensor mask, Tensor? fu, Tensor? fd, int up, int down, int[] pad, int[] offset, '
    'int[] mask_size, int[] in_size, int[] out_size, float gain, float slope, bool flip_filter) -> Tensor',
)
def _masked_op(x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, *fields: Any) -> Tensor:
    return _compute_masked(x, mask, fu, fd, MaskedResampling(*fields))


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _x, mask, fu, fd, *fields = inputs
    ctx.save_for_backward(mask, fd, fu)
    ctx.masked = MaskedResampling(*fields).transposed(fu, fd)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.ada_gan.filtered_lrelu_masked(dy, *ctx.saved_tensors, *ctx.masked), *[None] * 13


_masked_op.register_autograd(_backward, setup_context=_save_for_backward)
