"""The modulated 3×3 convolution of StyleGAN3 as one operator, from planes to planes (arXiv 2106.12423, appendix C.2).

The kernels for convolutions want channels last, with few zeros around the image; `filtered_lrelu` wants planes. Here,
conversion, padding and multiplication by styles or demodulation coefficients are one pass over memory, on each side of
the convolution. Each of these maps is the derivative of another, so all are differentiable any number of times.

The weights themselves are never scaled: what normalizes each output channel is part of the coefficients.

This operator is beyond those that the published code knows. Networks look it up in `conv2d_gradfix`, and compute the
same with separate operators if it is missing, or if it returns None because it does not apply.

Legend: N images, I and O input and output channels, C either of them, H and W rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import conv3x3, native
from torch_utils.ops.modulated_layer import EPSILON, energy


def modulated_conv2d(
    x: Tensor, w: Tensor, s: Tensor, demodulate: bool, padding: int, input_gain: Tensor | None
) -> Tensor | None:
    """Compute a modulated convolution, if there are kernels for it. Differentiable any number of times.

    Args:
        x: [N, I, H, W].
        w: Weights [O, I, 3, 3].
        s: Styles [N, I].
        demodulate: Give each output channel unit expected variance.
        padding: Padding on all sides.
        input_gain: Scale of the input, a scalar, or None.

    Returns:
        [N, O, H', W'], contiguous, or None if the separate operators are to be used.
    """
    if not _are_eager(x, w, s) or any(t.device.type != 'cpu' or t.dtype != torch.float32 for t in (x, w, s)):
        return None
    if padding < 1 or x.numel() == 0 or not conv3x3.is_supported(x, w):
        return None
    if demodulate:
        s, coefs = _demodulation(w, s)
    else:
        coefs = s.new_ones([x.shape[0], w.shape[0]])
    if input_gain is not None:
        s = s * input_gain
    y = conv3x3.convolve(to_pixels(x, s, padding - 1), w, 'keep')  # pads by one pixel itself
    return to_planes(y, coefs, 0)


def _demodulation(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return styles [N, I] with a mean square of one, and the factors [N, O] of the results for them."""
    energy_of_pairs = energy(w)  # [O, I]
    scale = (energy_of_pairs.mean(dim=1) / 9).rsqrt()  # [O], with which each output channel has a mean square of one
    s = s * s.square().mean().rsqrt()
    normalized = energy_of_pairs * scale.square()[:, None]
    return s, torch.rsqrt(s.square() @ normalized.t() + EPSILON) * scale


def _are_eager(*tensors: Tensor) -> bool:
    return all(native.route(tensor) == 'eager' for tensor in tensors)


def to_pixels(planes: Tensor, scale: Tensor, margin: int) -> Tensor:
    """Scale, pad with zeros and convert images [N, C, H, W] to channels last.

    Args:
        planes: [N, C, H, W] float32.
        scale: Factors [N, C].
        margin: Padding on all sides.
    """
    if _are_eager(planes, scale):
        return _ToPixels.apply(planes, scale, margin)
    return F.pad(planes * scale[:, :, None, None], [margin] * 4)


def to_planes(pixels: Tensor, scale: Tensor, margin: int) -> Tensor:
    """Crop, scale and convert images [N, C, H, W] from channels last to contiguous format; see `to_pixels`."""
    if _are_eager(pixels, scale):
        return _ToPlanes.apply(pixels, scale, margin)
    return F.pad(pixels, [-margin] * 4) * scale[:, :, None, None]


def products(planes: Tensor, pixels: Tensor, margin: int) -> Tensor:
    """Return the sums [N, C] of the products of images, of which `pixels` have a margin that does not count."""
    if _are_eager(planes, pixels):
        return _Products.apply(planes, pixels, margin)
    return (planes * F.pad(pixels, [-margin] * 4)).sum([2, 3])


class _ToPixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, scale: Tensor, margin: int) -> Tensor:
        ctx.save_for_backward(planes, scale)
        ctx.margin = margin
        kernels = native.kernels(planes)
        assert kernels is not None
        return kernels.to_pixels(planes, scale, margin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_pixels,) = grad_outputs
        planes, scale = ctx.saved_tensors
        d_planes = to_planes(d_pixels, scale, ctx.margin) if ctx.needs_input_grad[0] else None
        return d_planes, products(planes, d_pixels, ctx.margin) if ctx.needs_input_grad[1] else None, None


class _ToPlanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, scale: Tensor, margin: int) -> Tensor:
        ctx.save_for_backward(pixels, scale)
        ctx.margin = margin
        kernels = native.kernels(pixels)
        assert kernels is not None
        return kernels.to_planes(pixels, scale, margin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_planes,) = grad_outputs
        pixels, scale = ctx.saved_tensors
        d_pixels = to_pixels(d_planes, scale, ctx.margin) if ctx.needs_input_grad[0] else None
        return d_pixels, products(d_planes, pixels, ctx.margin) if ctx.needs_input_grad[1] else None, None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, pixels: Tensor, margin: int) -> Tensor:
        ctx.save_for_backward(planes, pixels)
        ctx.margin = margin
        kernels = native.kernels(planes)
        assert kernels is not None
        return kernels.products(planes, pixels, margin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (d_sums,) = grad_outputs
        planes, pixels = ctx.saved_tensors
        d_planes = to_planes(pixels, d_sums, ctx.margin) if ctx.needs_input_grad[0] else None
        return d_planes, to_pixels(planes, d_sums, ctx.margin) if ctx.needs_input_grad[1] else None, None
