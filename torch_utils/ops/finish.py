"""What follows the convolution of a layer as one operator: y = clamp(gain * act(scale * x + noise + bias)).

`scale` are the demodulation coefficients of each image and channel (arXiv 1912.04958, eq. 3). CUDA has a kernel for it.
On the CPU, the kernels of convolutions and filters do the same while they write (see `modulated_layer`).

Legend: N images, C channels, H and W rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_utils.ops import native
from torch_utils.ops.arguments import BiasActOptions, Finish


def finish(x: Tensor, scale: Tensor, noise: Tensor | None, b: Tensor, options: BiasActOptions) -> Tensor:
    """Compute the operator on a device that has kernels for it. Differentiable any number of times.

    Args:
        x: [N, C, H, W], float16, bfloat16, float32 or float64.
        scale: [N, C]; like the noise, it is read as float32, or as float64 if that is x's type.
        noise: [1 or N, 1, H, W], or None.
        b: Bias [C].
        options: Activation ('linear' or 'lrelu'), a gain above 0, and the largest magnitude of the result.

    Returns:
        [N, C, H, W] with x's type; channels last if x is, else contiguous.
    """
    inputs = (x, scale, noise, b)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
        return _Finish.apply(*inputs, *options)
    return _compute(*inputs, options)


def _compute(x: Tensor, scale: Tensor, noise: Tensor | None, b: Tensor, options: BiasActOptions) -> Tensor:
    kernels = native.kernels(x)
    assert kernels is not None
    return kernels.finish(x, Finish(scale, noise, b, options))


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives
#
# All formulas consist of differentiable operators, so autograd derives the second derivatives.


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, scale, noise, b, *fields = inputs
        ctx.options = BiasActOptions(*fields)
        y = _compute(x, scale, noise, b, ctx.options)
        ctx.save_for_backward(x, scale, noise, y)
        ctx.bias_dtype = b.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, noise, y = ctx.saved_tensors
        needs_x, needs_scale, needs_noise, needs_b = ctx.needs_input_grad[:4]
        dz = activation_gradient(grad_outputs[0], y, ctx.options)
        d_x = dz * scale.to(dz.dtype)[:, :, None, None] if needs_x else None
        d_scale = (dz * x).sum([2, 3], dtype=scale.dtype) if needs_scale else None
        d_noise = dz.sum(1, keepdim=True, dtype=noise.dtype).sum_to_size(noise.shape) if needs_noise else None
        db = dz.sum([0, 2, 3]).to(ctx.bias_dtype) if needs_b else None
        return d_x, d_scale, d_noise, db, *[None] * 5


def activation_gradient(dy: Tensor, y: Tensor, options: BiasActOptions) -> Tensor:
    """Return the gradient of z from that of y = clamp(gain * act(z))."""
    if native.route(dy) == native.route(y) == 'eager':
        return _ActivationGradient.apply(dy, y, *options)
    rate = torch.where(y > 0, options.gain, options.gain * options.alpha if options.act == 'lrelu' else options.gain)
    if options.clamp is not None:
        rate = torch.where(y.abs() < options.clamp, rate, 0)
    return dy * rate.to(dy.dtype)


class _ActivationGradient(torch.autograd.Function):
    """Linear in dy and piecewise constant in y, so it is its own derivative."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, y: Tensor, *fields: Any) -> Tensor:
        ctx.save_for_backward(y)
        ctx.options = BiasActOptions(*fields)
        kernels = native.kernels(y)
        assert kernels is not None
        return kernels.bias_act_grad(dy, None, None, y, ctx.options)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return activation_gradient(grad_outputs[0], y, ctx.options), *[None] * 6
