"""The kernels of `cpu_kernels.cpp`, for tensors on the CPU: float32 and float64; 16-bit types are computed in float32.

`cuda_kernels` has the same functions. Arguments have been validated by the operators, and the bias has x's type.
The library is compiled on first use.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import build
from torch_utils.ops.arguments import ACTIVATION_CODES, CHANNEL_MULTIPLE, BiasActOptions, Finish
from torch_utils.ops.cpu_library import check, library, library_path, pointer_to
from torch_utils.ops.resampling import (
    FilteredActivation,
    MaskedResampling,
    Resampling,
    is_channels_last,
    memory_format_of,
)

FUSED_BIAS_GRADIENT = True  # bias_act_grad can also compute the gradient of the bias.
_TYPES = {torch.float32: 0, torch.float64: 1}
_VALUE, _GRADIENT, _CURVATURE = range(3)
_ACTIVATE, _ACTIVATE_AND_WRITE_MASK, _APPLY_MASK = range(3)  # as in cpu_filtered_lrelu.h
_MAX_LRELU_FACTOR, _MAX_LRELU_TAPS = 8, 64  # beyond them, the rows would not stay in the cache
_MIN_CHANNELS = 8  # from which vectors along the channels are worthwhile
_SCHEMES = {'keep': 0, 'halve': 1, 'twice': 2}  # as in cpu_kernels.cpp
_TO_PIXELS, _TO_PLANES, _PRODUCTS = range(3)  # as in cpu_kernels.cpp
_MIN_LANES = (
    8  # floats per vector with which convolutions are faster than PyTorch's (AVX, AVX-512); ARM's 4 is untested
)


@functools.cache
def reason_unavailable(device: torch.device) -> str | None:
    """Return the reason why the kernels cannot be used, as one sentence, or None if they can."""
    try:
        library()
    except build.BuildError as error:
        return str(error)
    return None


def describe(_device: torch.device) -> list[str]:
    """Return lines about the library, for `python -m torch_utils.ops`."""
    path = library_path()
    seconds = build.build_time_sec(path)
    return [f'{path}' + ('' if seconds is None else f', compiled once in {seconds:.1f} s')]


# ---------------------------------------------------------------------------------------------------------------------
# bias_act


def supports_bias_act(x: Tensor, options: BiasActOptions) -> bool:
    """Return whether `bias_act` and its derivatives support these arguments."""
    return x.dtype in _TYPES


def bias_act(x: Tensor, b: Tensor | None, options: BiasActOptions) -> Tensor:
    """Return clamp(gain * act(x + b)), in x's layout."""
    if options.act in _IN_PLACE:
        return _by_pytorch(x, b, options)
    y = torch.empty_like(x)
    _run_bias_act(_VALUE, y, x, None, None, b, options)
    return y


# PyTorch has vector instructions for these functions, which outweighs the additional passes over memory.
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    'tanh': torch.tanh_,
    'sigmoid': torch.sigmoid_,
    'elu': F.elu_,
    'selu': F.selu_,
    'softplus': lambda z: torch.ops.aten.softplus.out(z, out=z),
    'swish': lambda z: F.silu(z, inplace=True),
}


def _by_pytorch(x: Tensor, b: Tensor | None, options: BiasActOptions) -> Tensor:
    dim, act, _alpha, gain, clamp = options
    if b is None:
        y = x.clone()
    else:
        shape = [1] * x.ndim
        shape[dim] = -1
        y = x + b.reshape(shape)
    y = _IN_PLACE[act](y)
    if gain != 1:
        y.mul_(gain)
    return y if clamp is None else y.clamp_(-clamp, clamp)


def bias_act_grad(
    dy: Tensor,
    x: Tensor | None,
    b: Tensor | None,
    y: Tensor | None,
    options: BiasActOptions,
    bias_gradient: bool = False,
) -> Any:
    """Return the gradient of x, or with `bias_gradient` the gradients (dx, db).

    Only one of x (with b) and y is read: x for swish, y for all other activations.
    """
    reference, b = options.reference(x, b, y)
    dx = torch.empty_like(reference)
    db = None
    if bias_gradient:
        db = torch.empty([reference.shape[options.dim]], dtype=torch.float64, device=reference.device)
    _run_bias_act(_GRADIENT, dx, dy, reference, None, b, options, db)
    return dx if db is None else (dx, db.to(dx.dtype))


def bias_act_grad2(
    dy: Tensor, d_dx: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, options: BiasActOptions
) -> Tensor:
    """Return dy * d_dx * (second derivative), the gradient of <d_dx, dx> with respect to x."""
    reference, b = options.reference(x, b, y)
    if ACTIVATION_CODES[options.act] <= ACTIVATION_CODES['lrelu']:
        return torch.zeros_like(reference)
    d_x = torch.empty_like(reference)
    _run_bias_act(_CURVATURE, d_x, dy, reference, d_dx, b, options)
    return d_x


def _run_bias_act(
    order: int,
    out: Tensor,
    tensor: Tensor,
    reference: Tensor | None,
    direction: Tensor | None,
    b: Tensor | None,
    options: BiasActOptions,
    bias_gradient: Tensor | None = None,
) -> None:
    """Run the kernel for the value, the gradient or the second derivative; see `struct BiasAct` in cpu_bias_act.h."""
    dim, act, alpha, gain, clamp = options
    strides = out.stride()
    operands = [None if operand is None else _like(operand, out, strides) for operand in (tensor, reference, direction)]
    if b is not None:
        b = b.contiguous()
    pointers = [None if operand is None else operand.data_ptr() for operand in (*operands, b, bias_gradient)]
    has_channels = b is not None or bias_gradient is not None
    # In a dense tensor, the elements of a channel form runs as long as the stride of that dimension.
    size, stride = (out.shape[dim], max(strides[dim], 1)) if has_channels else (1, out.numel())
    check(
        library().ada_bias_act(
            _TYPES[out.dtype],
            out.data_ptr(),
            *pointers,
            out.numel(),
            stride,
            size,
            ACTIVATION_CODES[act],
            order,
            alpha,
            gain,
            math.inf if clamp is None else clamp,
            torch.get_num_threads(),
        )
    )


def _like(tensor: Tensor, out: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return the tensor in the layout of `out`."""
    return tensor if tensor.stride() == strides else torch.empty_like(out).copy_(tensor)


# ---------------------------------------------------------------------------------------------------------------------
# upfirdn2d


def supports_upfirdn2d(x: Tensor, f: Tensor, geometry: Resampling) -> bool:
    """Return whether `upfirdn2d` supports these arguments."""
    return x.dtype.itemsize <= 8 and f.dtype in _TYPES and f.device.type == 'cpu'


def upfirdn2d(x: Tensor, f: Tensor, geometry: Resampling, finish: Finish | None = None) -> Tensor:
    """Compute `upfirdn2d.upfirdn2d`, and then `finish`, for which x must be as for `conv3x3`."""
    if x.dtype not in _TYPES:
        return upfirdn2d(x.float(), f, geometry).to(x.dtype)
    n, c, h, w = x.shape
    kw, kh = f.shape[-1], f.shape[0]
    up, down, (x0, _x1, y0, _y1), flip_filter, gain = geometry
    out_h, out_w = geometry.output_size(x.shape, f)

    requested_layout = memory_format_of(x)
    kernel_last = is_channels_last(x) and (c >= _MIN_CHANNELS or (up == (1, 1) and down == (1, 1)))
    if not kernel_last and x.stride(3) != 1:
        x = x.contiguous()
    f = f.contiguous()
    layout = torch.channels_last if kernel_last else torch.contiguous_format
    y = torch.empty([n, c, out_h, out_w], dtype=x.dtype, device=x.device, memory_format=layout)
    strides, out_strides = x.stride(), y.stride()
    check(
        library().ada_upfirdn2d(
            _TYPES[x.dtype],
            x.data_ptr(),
            y.data_ptr(),
            (ctypes.c_int64 * 7)(kernel_last, *strides[:3], *out_strides[:3]),
            (ctypes.c_int64 * 14)(n, c, up[0], down[0], x0, kw, w, out_w, up[1], down[1], y0, kh, h, out_h),
            f.data_ptr(),
            _TYPES[f.dtype],
            f.ndim == 1,
            not flip_filter,
            gain,
            pointer_to(finish),
            torch.get_num_threads(),
        )
    )
    return y if requested_layout == layout else y.contiguous(memory_format=requested_layout)


# ---------------------------------------------------------------------------------------------------------------------
# filtered_lrelu


def supports_filtered_lrelu(x: Tensor, fu: Tensor | None, fd: Tensor | None, up: int, down: int) -> bool:
    """Return whether `filtered_lrelu` and its derivatives support these arguments."""
    filters = [f for f in (fu, fd) if f is not None]
    if not filters or x.dtype.itemsize > 8 or max(up, down) > _MAX_LRELU_FACTOR:
        return False  # without a filter, `bias_act` alone does the work in one pass
    return all(
        f.dtype in _TYPES and f.device.type == 'cpu' and len(set(f.shape)) == 1 and f.shape[0] <= _MAX_LRELU_TAPS
        for f in filters
    )


def filtered_lrelu(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, options: FilteredActivation, want_mask: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute `filtered_lrelu.filtered_lrelu`.

    Returns:
        The result and, if `want_mask`, the mask that the derivatives need, else None. The mask is uint8
        [N, C, H_u, bytes of a row] for H_u rows after upsampling; see cpu_filtered_lrelu.h.
    """
    up, down = options.up, options.down
    geometry = options.masked(x.shape, fu, fd)
    mask = None
    if want_mask:
        mid_w, mid_h = geometry.mask_size
        period = math.lcm(up, down)
        mask = torch.empty([*x.shape[:2], mid_h, period * -(-mid_w // period)], dtype=torch.uint8)
    mode = _ACTIVATE if mask is None else _ACTIVATE_AND_WRITE_MASK
    factors = up**2, options.gain, options.slope, math.inf if options.clamp is None else options.clamp
    return _run_filtered_lrelu(mode, x, b, mask, fu, fd, geometry, factors), mask


def filtered_lrelu_masked(
    x: Tensor, mask: Tensor, fu: Tensor | None, fd: Tensor | None, masked: MaskedResampling
) -> Tensor:
    """Compute a derivative of `filtered_lrelu`."""
    factors = 1, masked.gain, masked.slope, math.inf
    return _run_filtered_lrelu(_APPLY_MASK, x, None, mask, fu, fd, masked, factors)


def _run_filtered_lrelu(
    mode: int,
    x: Tensor,
    b: Tensor | None,
    mask: Tensor | None,
    fu: Tensor | None,
    fd: Tensor | None,
    geometry: MaskedResampling,
    factors: tuple[float, float, float, float],
) -> Tensor:
    """Run the kernel; `factors`: gain of the upsampling, gain, slope and clamp of the activation."""
    dtype = x.dtype if x.dtype in _TYPES else torch.float32
    source = _as_planes(x.to(dtype))
    b = None if b is None else b.to(dtype).contiguous()
    (n, c), (out_w, out_h) = x.shape[:2], geometry.out_size
    y = torch.empty([n, c, out_h, out_w], dtype=dtype)
    kernels = [_correlation_kernel(f, geometry.flip_filter) for f in (fu, fd)]
    numbers = [mode, n * c, c]
    for kernel in kernels:
        numbers += [kernel.shape[0], kernel.ndim == 1]
    of_axes = zip(geometry.pad, geometry.offset, geometry.in_size, geometry.out_size, geometry.mask_size, strict=True)
    for numbers_of_axis in of_axes:
        numbers += [geometry.up, geometry.down, *numbers_of_axis]
    check(
        library().ada_filtered_lrelu(
            _TYPES[dtype],
            source.data_ptr(),
            None if b is None else b.data_ptr(),
            y.data_ptr(),
            None if mask is None else mask.data_ptr(),
            (ctypes.c_int64 * len(numbers))(*numbers),
            *(kernel.data_ptr() for kernel in kernels),
            *factors,
            torch.get_num_threads(),
        )
    )
    return y.to(x.dtype).contiguous(memory_format=memory_format_of(x))


def _as_planes(x: Tensor) -> Tensor:
    """Return images [N, C, H, W] contiguously. From channels last, PyTorch transposes matrices faster than images."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous()
    planes = torch.empty(x.shape, dtype=x.dtype)
    for image, pixels in zip(planes.flatten(2), x.permute(0, 2, 3, 1).flatten(1, 2)):
        image.copy_(pixels.t())
    return planes


def _correlation_kernel(f: Tensor | None, flip_filter: bool) -> Tensor:
    """Return a filter as float64, reversed unless `flip_filter`."""
    if f is None:
        return torch.ones([1], dtype=torch.float64)
    f = f.detach().to(torch.float64)
    return f.contiguous() if flip_filter else f.flip(list(range(f.ndim)))


# ---------------------------------------------------------------------------------------------------------------------
# 3×3 convolutions


def supports_conv3x3(x: Tensor, w: Tensor, padded: bool = False) -> bool:
    """Return whether the functions below support images [N, I, H, W] and weights [O, I, 3, 3].

    Args:
        x: Images.
        w: Weights.
        padded: Whether the caller pads the channels to multiples of `CHANNEL_MULTIPLE`.
    """
    return (
        x.dtype == w.dtype == torch.float32
        and min(*x.shape, *w.shape) > 0
        and (padded or all(channels % CHANNEL_MULTIPLE == 0 for channels in w.shape[:2]))
        and library().ada_lanes() >= _MIN_LANES
        # Without OpenMP, PyTorch's convolutions are faster on several threads.
        and (library().ada_has_threads() or torch.get_num_threads() == 1)
    )


def conv3x3(
    x: Tensor,
    w: Tensor,
    kind: str,
    size: tuple[int, int],
    rotated: bool,
    styles: Tensor | None = None,
    finish: Finish | None = None,
) -> Tensor:
    """Compute `conv3x3.convolve` with output size (H', W'), channels last.

    Args:
        x: Images [N, I, H, W].
        w: Weights [O, I, 3, 3].
        kind: Kind of the convolution.
        size: Output size (H', W').
        rotated: Rotate the weights by 180 degrees.
        styles: Factors [N, I] of x, or None; contiguous float32.
        finish: What to do with the results, or None.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty([x.shape[0], w.shape[0], *size], dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    arguments = x.data_ptr(), w.data_ptr(), y.data_ptr(), _conv3x3_shape(x, y, kind), _weight_layout(w, rotated)
    factors = None if styles is None else styles.data_ptr()
    check(library().ada_conv3x3(_SCHEMES[kind], *arguments, factors, pointer_to(finish), torch.get_num_threads()))
    return y


def conv3x3_weight_gradient(x: Tensor, dy: Tensor, kind: str, rotated: bool) -> Tensor:
    """Return the gradient of the weights.

    Args:
        x: Images [N, I, H, W].
        dy: Gradient of the output, [N, O, H', W'].
        kind: Kind of the convolution; not 'twice'.
        rotated: Rotate the result by 180 degrees.

    Returns:
        Tensor [O, I, 3, 3].
    """
    x, dy = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, dy))
    dw = torch.empty([dy.shape[1], x.shape[1], 3, 3], dtype=x.dtype, device=x.device)
    arguments = x.data_ptr(), dy.data_ptr(), dw.data_ptr(), _conv3x3_shape(x, dy, kind), _weight_layout(dw, rotated)
    check(library().ada_conv3x3_weight_gradient(_SCHEMES[kind], *arguments, torch.get_num_threads()))
    return dw


def energy(w: Tensor) -> Tensor:
    """Return the sums [O, I] of the squares of weights [O, I, 3, 3]."""
    if w.dtype != torch.float32 or not w.is_contiguous():
        return w.square().sum(dim=[2, 3])
    sums = torch.empty(w.shape[:2], dtype=w.dtype, device=w.device)
    check(library().ada_energy(w.data_ptr(), sums.data_ptr(), sums.numel(), torch.get_num_threads()))
    return sums


def _conv3x3_shape(x: Tensor, y: Tensor, kind: str) -> ctypes.Array:
    (n, in_channels, *in_size), (_, out_channels, *out_size) = x.shape, y.shape
    pad = 0 if kind == 'halve' else 1  # 'twice' starts reading one pixel before the image.
    return (ctypes.c_int64 * 8)(n, *in_size, in_channels, *out_size, out_channels, pad)


def _weight_layout(w: Tensor, rotated: bool) -> ctypes.Array:
    return (ctypes.c_int64 * 5)(*w.stride(), rotated)


# ---------------------------------------------------------------------------------------------------------------------
# Planes and pixels


def to_pixels(planes: Tensor, scale: Tensor, margin: int) -> Tensor:
    """Compute `modulated_conv2d.to_pixels`; float32."""
    n, c, h, w = planes.shape
    size = [n, c, h + 2 * margin, w + 2 * margin]
    pixels = torch.empty(size, dtype=planes.dtype, memory_format=torch.channels_last)
    _run_layouts(_TO_PIXELS, planes.contiguous(), pixels, scale, None, margin)
    return pixels


def to_planes(pixels: Tensor, scale: Tensor, margin: int) -> Tensor:
    """Compute `modulated_conv2d.to_planes`; float32."""
    n, c, h, w = pixels.shape
    planes = torch.empty([n, c, h - 2 * margin, w - 2 * margin], dtype=pixels.dtype)
    _run_layouts(_TO_PLANES, planes, pixels.contiguous(memory_format=torch.channels_last), scale, None, margin)
    return planes


def products(planes: Tensor, pixels: Tensor, margin: int) -> Tensor:
    """Compute `modulated_conv2d.products`; float32."""
    n, c, h, _w = planes.shape
    sums = torch.empty([n, h, c], dtype=planes.dtype)  # over each row
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    _run_layouts(_PRODUCTS, planes.contiguous(), pixels, None, sums, margin)
    return sums.sum(dim=1)


def _run_layouts(
    code: int, planes: Tensor, pixels: Tensor, scale: Tensor | None, sums: Tensor | None, margin: int
) -> None:
    """Run one of the maps of cpu_layouts.h; images are contiguous and channels last."""
    scale = None if scale is None else scale.contiguous()
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (planes, pixels, scale, sums)]
    shape = (ctypes.c_int64 * 5)(*planes.shape, margin)
    check(library().ada_layouts(code, *pointers, shape, torch.get_num_threads()))
