"""A layer of StyleGAN2's generator as one operator: y = clamp(gain * act(coefs * conv(x * styles) + noise + bias)).

`conv` is a 3×3 convolution, or a transposed one that doubles the size, followed by a filter. `coefs` normalize each
output channel of each sample (arXiv 1912.04958, eq. 3), or are 1. On the CPU, images are scaled by the styles while the
convolution reads them; all that follows it takes place while it writes, or while the filter does. On CUDA, the
convolution is PyTorch's, and all that follows it, or the filter, is one kernel (`finish`).

This operator is beyond those that the published code knows. Networks look it up in `conv2d_resample`, and compute the
same with separate operators if it is missing, or if it returns None because it does not apply.

Legend: N images, I and O input and output channels, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import conv3x3, native
from torch_utils.ops.arguments import BiasActOptions, Finish
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.finish import activation_gradient, finish
from torch_utils.ops.resampling import Resampling, filter_size
from torch_utils.ops.upfirdn2d import upfirdn2d

_SLOPES = {'linear': 1.0, 'lrelu': 0.2}  # for negative numbers
EPSILON = 1e-8  # added to the sum of squares


def modulated_layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    b: Tensor,
    *,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    flip_weight: bool = True,
    demodulate: bool = True,
    act: str = 'linear',
    gain: float = 1,
    clamp: float | None = None,
) -> Tensor | None:
    """Compute a layer, if there are kernels for it. Differentiable any number of times.

    Args:
        x: [N, I, H, W].
        weight: [O, I, kh, kw].
        styles: [N, I].
        noise: Added to the result of the convolution, [H', W'] or [1 or N, 1, H', W'], or None.
        b: Bias [O].
        up: Upsampling factor.
        padding: Padding relative to the upsampled image.
        resample_filter: Filter for upsampling, of `upfirdn2d.setup_filter`.
        flip_weight: False: convolution; True: correlation.
        demodulate: Normalize each output channel.
        act: Activation, as for `bias_act`.
        gain: Factor applied after the activation.
        clamp: Largest magnitude of the result, or None for no limit.

    Returns:
        [N, O, H', W'] with x's type, on the CPU channels last, or None if the separate operators are to be used.
    """
    if padding != 1 or up not in (1, 2) or flip_weight != (up == 1) or act not in _SLOPES or not gain > 0:
        return None
    tensors = [tensor for tensor in (x, weight, styles, noise, b) if tensor is not None]
    if not _are_ordinary(tensors):
        return None
    kernels = native.kernels(x)
    if kernels is None or not _are_shapes_supported(x, weight, styles, noise, b, up):
        return None
    options = BiasActOptions(1, act, _SLOPES[act], float(gain), None if clamp is None else float(clamp))
    if noise is not None:
        noise = noise.reshape(-1, 1, *noise.shape[-2:])
    if x.device.type == 'cuda':
        if not kernels.supports_bias_act(x, options):
            return None
        return _with_finish(x, weight, styles, noise, b, resample_filter, up, demodulate, options)
    if any(tensor.dtype != torch.float32 for tensor in tensors) or not kernels.supports_conv3x3(x, weight):
        return None
    coefs = _demodulation(weight, styles) if demodulate else None
    inputs = x, weight, styles, coefs, noise, b, resample_filter
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
        # Leaves are replaced by views, because `conv3x3.needs_gradient` cannot query the gradient of a leaf.
        views = (t.view_as(t) if t is not None and t.is_leaf and t.requires_grad else t for t in inputs)
        return _ModulatedLayer.apply(*views, up, *options)
    return _compute(*inputs, up, options)


def reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    b: Tensor,
    *,
    up: int,
    resample_filter: Tensor | None,
    **activation: Any,
) -> Tensor:
    """Compute a layer that is demodulated, step by step. See `modulated_layer`."""
    x = x * styles[:, :, None, None]
    if up == 1:
        x = F.conv2d(x, weight, padding=1)
    else:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        x = upfirdn2d(x, resample_filter, padding=_filter_padding(resample_filter), gain=4)
    coefs = torch.rsqrt(styles.square() @ weight.square().sum(dim=[2, 3]).t() + EPSILON)
    x = x * coefs[:, :, None, None]
    return bias_act(x if noise is None else x + noise, b, **activation)


def _are_ordinary(tensors: Sequence[Tensor]) -> bool:
    """Return whether kernels may read these tensors: on one device that has kernels, and without autocast."""
    device = tensors[0].device
    if device.type not in ('cpu', 'cuda') or torch.is_autocast_enabled(device.type):
        return False
    return all(
        native.route(tensor) == 'eager' and tensor.device == device and not tensor.is_neg() for tensor in tensors
    )


def _are_shapes_supported(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, b: Tensor, up: int) -> bool:
    if x.ndim != 4 or x.numel() == 0 or weight.ndim != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        return False
    if styles.shape != x.shape[:2] or b.shape != weight.shape[:1]:
        return False
    if noise is None:
        return True
    size = x.shape[2] * up, x.shape[3] * up
    return noise.shape == size or (noise.shape[1:] == (1, *size) and noise.shape[0] in (1, x.shape[0]))


def _filter_padding(f: Tensor | None) -> list[int]:
    """Return the padding [x0, x1, y0, y1] for the filter, with which [2 H + 1, 2 W + 1] becomes [2 H, 2 W]."""
    (kw, kh) = filter_size(f)
    return [(kw + 1) // 2 - 1, (kw - 2) // 2, (kh + 1) // 2 - 1, (kh - 2) // 2]


def _with_finish(
    x: Tensor,
    w: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    b: Tensor,
    f: Tensor | None,
    up: int,
    demodulate: bool,
    options: BiasActOptions,
) -> Tensor:
    """Convolve by PyTorch, filter, and compute all that follows by one kernel.

    The weights of a single image are scaled, which are fewer numbers than the image has; images share the weights.
    """
    if demodulate and x.dtype == torch.float16:
        # At most one, so that sums in float16 stay finite. Demodulation cancels the scale.
        w = w / (w.abs().amax(dim=[1, 2, 3], keepdim=True) * w[0].numel() ** 0.5)
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    if demodulate:
        coefs = torch.rsqrt(styles.square() @ w.square().sum(dim=[2, 3]).t() + EPSILON)  # [N, O]
    else:
        coefs = styles.new_ones([x.shape[0], w.shape[0]])
    if x.shape[0] == 1:
        w = w * styles[0, :, None, None]
    else:
        x = x * styles.to(x.dtype)[:, :, None, None]
    w = w.to(x.dtype)
    if up == 1:
        x = F.conv2d(x, w, padding=1)
    else:
        x = F.conv_transpose2d(x, w.transpose(0, 1), stride=2)  # [N, O, 2 H + 1, 2 W + 1]
        x = upfirdn2d(x, f, padding=_filter_padding(f), gain=4)
    return finish(x, coefs, noise, b, options)


def _compute(
    x: Tensor,
    w: Tensor,
    styles: Tensor,
    coefs: Tensor | None,
    noise: Tensor | None,
    b: Tensor,
    f: Tensor | None,
    up: int,
    options: BiasActOptions,
) -> Tensor:
    """Run the kernels."""
    kernels = native.kernels(x)
    assert kernels is not None
    scale = styles.new_ones([x.shape[0], w.shape[0]]) if coefs is None else coefs
    after = Finish(scale, noise, b, options).contiguous()
    styles = styles.contiguous()
    height, width = x.shape[2:]
    if up == 1:
        return kernels.conv3x3(x, w, 'keep', (height, width), False, styles, after)
    x = kernels.conv3x3(x, w, 'twice', (2 * height + 1, 2 * width + 1), False, styles)
    x0, x1, y0, y1 = _filter_padding(f)
    f = torch.ones([1, 1]) if f is None else f
    return kernels.upfirdn2d(x, f, Resampling((1, 1), (1, 1), (x0, x1, y0, y1), False, 4.0), after)


# ---------------------------------------------------------------------------------------------------------------------
# Demodulation


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Return the factors [N, O] that give each output channel of each sample unit expected variance."""
    return torch.rsqrt(styles.square() @ energy(weight).t() + EPSILON)


def energy(weight: Tensor) -> Tensor:
    """Return the sums [O, I] of the squares of float32 weights [O, I, 3, 3] on the CPU."""
    return _Energy.apply(weight)


class _Energy(torch.autograd.Function):
    """The sums [O, I] of the squares of weights [O, I, 3, 3]."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        kernels = native.kernels(w)
        assert kernels is not None
        return kernels.energy(w)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors
        return w * (2 * grad_outputs[0])[:, :, None, None]


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives
#
# In the formulas below, y = clamp(gain * act(z)) and z = coefs * c + noise + b. The gradients need c, which is not
# stored: it follows from y where y is not clamped, and where y is clamped, its factor is 0. All formulas consist of
# differentiable operators, so autograd derives the second derivatives.


class _ModulatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, w, styles, coefs, noise, b, f, up, *fields = inputs
        ctx.up, ctx.options = up, BiasActOptions(*fields)
        y = _compute(x, w, styles, coefs, noise, b, f, up, ctx.options)
        ctx.save_for_backward(x, w, styles, coefs, noise, b, f, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, w, styles, coefs, noise, b, f, y = ctx.saved_tensors
        _x, _w, _styles, needs_coefs, needs_noise, needs_b = ctx.needs_input_grad[:6]
        dz = activation_gradient(grad_outputs[0], y, ctx.options)
        db = dz.sum([0, 2, 3]) if needs_b else None
        d_noise = dz.sum(1, keepdim=True).sum_to_size(noise.shape) if needs_noise else None
        d_coefs = None
        if coefs is not None:
            if needs_coefs:
                scaled = _before_activation(y, ctx.options) - b[:, None, None]
                scaled = scaled if noise is None else scaled - noise
                d_coefs = (dz * scaled).sum([2, 3]) / coefs
            dz = dz * coefs[:, :, None, None]
        return *_convolution_gradients(ctx, dz, x, w, styles, f), d_coefs, d_noise, db, *[None] * 7


def _convolution_gradients(
    ctx: Any, dz: Tensor, x: Tensor, w: Tensor, styles: Tensor, f: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, w and styles from that of the result of the convolution and the filter."""
    kind: conv3x3.Kind = 'keep' if ctx.up == 1 else 'twice'
    if ctx.up == 2:
        kw, kh = filter_size(f)
        x0, x1, y0, y1 = _filter_padding(f)
        padding = [kw - 1 - x0, kw - 1 - x1, kh - 1 - y0, kh - 1 - y1]
        dz = upfirdn2d(dz, f, padding=padding, flip_filter=True, gain=4)
    factors = styles[:, :, None, None]
    dx = dw = d_styles = None
    needs_x, needs_styles = conv3x3.needs_gradient(ctx, 0), conv3x3.needs_gradient(ctx, 2)
    if conv3x3.needs_gradient(ctx, 1):
        dw = conv3x3.weight_gradient(x * factors, dz, kind)
    if needs_x or needs_styles:
        d_modulated = conv3x3.input_gradient(dz, w, kind, (x.shape[2], x.shape[3]))
        dx = d_modulated * factors if needs_x else None
        d_styles = (d_modulated * x).sum([2, 3]) if needs_styles else None
    return dx, dw, d_styles


def _before_activation(y: Tensor, options: BiasActOptions) -> Tensor:
    """Return z where y is not clamped."""
    if options.act == 'linear':
        return y / options.gain
    return y * torch.where(y > 0, 1 / options.gain, 1 / (options.gain * options.alpha)).to(y.dtype)
