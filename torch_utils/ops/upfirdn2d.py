"""Resampling of images: upsample by zero insertion, pad or crop, filter, and keep every n-th pixel.

Legend: N images, C channels, H and W rows and columns; kh and kw taps of the filter.

`_reference` is the definition. The fast implementations rest on two facts. The operation is linear, and its transpose
is again a resampling (`Resampling.transposed`), so one autograd function serves forward, backward and all higher
derivatives. And a filter that is an outer product, such as [1,3,3,1], can be applied to rows and columns separately.

If there are kernels for a tensor (see `native`), they do the work. Otherwise upsampling, padding, filter and
downsampling along one axis form a small banded matrix, so two matrix products compute the result; on a CPU this is
faster than convolutions for upsampling and for long filters, as long as images are small. All other cases use strided
convolutions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, library

from torch_utils.ops import native
from torch_utils.ops.arguments import check_image_batch, check_impl, parse_factor_xy, parse_padding
from torch_utils.ops.resampling import Resampling, filter_size, is_channels_last, memory_format_of

SEPARABLE_FROM_TAPS = 8  # Part of the file format: shorter filters are two-dimensional in network pickles.

# Largest image side for which matrix products are used, by the rank of the filter: their cost grows with the image
# size, that of a convolution with the number of taps. Measured on an AMD EPYC with [1,3,3,1] and with 12 taps.
LARGEST_BANDED_SIZE = {1: 2048, 2: 128}


def setup_filter(
    f: Any,
    device: torch.device | str = torch.device('cpu'),
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Prepare a filter for the functions below.

    Args:
        f: Taps as a number, list, array or tensor of rank 0, 1 or 2, or None for the identity filter.
        device: Where the filter is stored.
        normalize: Scale the taps so that their sum is 1.
        flip_filter: Reverse the taps.
        gain: Factor for the images; a filter of rank 1, which is applied twice, is scaled by its square root.
        separable: Keep a filter of rank 1 as it is (True) or make it two-dimensional (False). By default, filters of
            8 or more taps are kept.

    Returns:
        float32 tensor of shape [kh, kw], or [k] for a separable filter.

    Raises:
        ValueError: The filter is empty or has the wrong rank.
    """
    f = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device='cpu')  # regardless of the default device
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(
            f'setup_filter: f must be a number, a vector or a matrix with at least one tap, '
            f'got an array of shape {list(f.shape)}'
        )
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_FROM_TAPS
    if separable and f.ndim == 2:
        raise ValueError(f'setup_filter: separable=True requires a vector of taps, but f has the shape {list(f.shape)}')
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = 'cuda',
) -> Tensor:
    """Upsample, pad, filter and downsample a batch of images, in this order.

    Differentiable with respect to x, and to f if it requires gradients (then the reference implementation is used).

    Args:
        x: Floating-point tensor [N, C, H, W], contiguous or channels last.
        f: Filter from `setup_filter`, [kh, kw] or separable [k], on x's device, or None for no filtering.
        up: Upsampling factor, an integer or [x, y]: up - 1 zeros are inserted after each pixel.
        down: Downsampling factor, an integer or [x, y]: the first of every `down` pixels is kept.
        padding: Zeros around the upsampled image, an integer, [x, y] or [x0, x1, y0, y1]; negative numbers crop.
        flip_filter: False for convolution; True for correlation.
        gain: Factor for the result.
        impl: 'cuda' for the fastest implementation available, 'ref' for plain PyTorch.

    Returns:
        Tensor [N, C, (H * up + y0 + y1 - kh) // down + 1, (W * up + x0 + x1 - kw) // down + 1] of x's type.

    Raises:
        ValueError: An argument is invalid, or the padded image is smaller than the filter.
    """
    check_impl('upfirdn2d', impl)
    check_image_batch('upfirdn2d', x)
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    if f.ndim not in (1, 2):
        raise ValueError(f'upfirdn2d: the filter must have the shape [kh, kw] or [k], got {list(f.shape)}')
    geometry = Resampling(
        parse_factor_xy('upfirdn2d', 'up', up),
        parse_factor_xy('upfirdn2d', 'down', down),
        parse_padding('upfirdn2d', padding),
        bool(flip_filter),
        float(gain),
    )
    out_h, out_w = geometry.output_size(x.shape, f)
    if out_h < 1 or out_w < 1:
        raise ValueError(
            f'upfirdn2d: an image of {x.shape[2]}x{x.shape[3]} pixels with up={up}, down={down} and '
            f'padding={padding} is smaller than the filter of shape {list(f.shape)}; increase the padding'
        )
    return _dispatch(x, f, geometry, impl)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = 'cuda',
) -> Tensor:
    """Filter images [N, C, H, W] without changing their size, except by `padding`. See `upfirdn2d`."""
    kw, kh = filter_size(f)
    x0, x1, y0, y1 = parse_padding('filter2d', padding)
    sides = [x0 + kw // 2, x1 + (kw - 1) // 2, y0 + kh // 2, y1 + (kh - 1) // 2]
    return upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = 'cuda',
) -> Tensor:
    """Upsample images [N, C, H, W] to `up` times their size, plus `padding` (pixels of the result). See `upfirdn2d`.

    The brightness is preserved: the result is scaled to compensate for the inserted zeros.
    """
    up_x, up_y = parse_factor_xy('upsample2d', 'up', up)
    x0, x1, y0, y1 = parse_padding('upsample2d', padding)
    kw, kh = filter_size(f)
    sides = [x0 + (kw + up_x - 1) // 2, x1 + (kw - up_x) // 2, y0 + (kh + up_y - 1) // 2, y1 + (kh - up_y) // 2]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = 'cuda',
) -> Tensor:
    """Downsample images [N, C, H, W], after `padding`, to 1 / `down` of their size. See `upfirdn2d`."""
    down_x, down_y = parse_factor_xy('downsample2d', 'down', down)
    x0, x1, y0, y1 = parse_padding('downsample2d', padding)
    kw, kh = filter_size(f)
    sides = [x0 + (kw - down_x + 1) // 2, x1 + (kw - down_x) // 2, y0 + (kh - down_y + 1) // 2, y1 + (kh - down_y) // 2]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)


# ---------------------------------------------------------------------------------------------------------------------
# Definition


def _reference(x: Tensor, f: Tensor, geometry: Resampling) -> Tensor:
    """The definition, step by step."""
    up_x, up_y = geometry.up
    down_x, down_y = geometry.down
    n, c, h, w = x.shape

    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = x.reshape(n, c, h * up_y, w * up_x)
    x = F.pad(x, geometry.padding)
    for kernel in _correlation_kernels(f, geometry, x.dtype):
        x = F.conv2d(x, kernel.expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::down_y, ::down_x]


def _correlation_kernels(f: Tensor, geometry: Resampling, dtype: torch.dtype) -> list[Tensor]:
    """Return the filter as one kernel [kh, kw] or, if it is separable, as two: [1, k] and [k, 1]."""
    f = f * geometry.gain ** (f.ndim / 2)
    if not geometry.flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    f = f.to(dtype)
    return [f] if f.ndim == 2 else [f[None, :], f[:, None]]


# ---------------------------------------------------------------------------------------------------------------------
# Choice of the implementation


def _dispatch(x: Tensor, f: Tensor, geometry: Resampling, impl: str) -> Tensor:
    """Call the implementation that `native.route` chooses."""
    route = 'reference' if impl == 'ref' or f.requires_grad else native.route(x)
    if route == 'reference':
        return _reference(x, f, geometry)
    if route == 'custom_op':
        return torch.ops.ada_gan.upfirdn2d(x, f, *geometry)
    if x.requires_grad and torch.is_grad_enabled():
        return _Resample.apply(x, f, geometry)
    return _compute(x, f, geometry)


class _Resample(torch.autograd.Function):
    """Resampling as a linear map, whose derivative is the transposed resampling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, geometry: Resampling) -> Tensor:
        ctx.save_for_backward(f)
        ctx.transposed = geometry.transposed(x.shape, f)
        return _compute(x, f, geometry)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grad_outputs
        (f,) = ctx.saved_tensors
        if native.route(dy) in ('custom_op', 'reference'):  # the latter if gradients are batched
            return torch.ops.ada_gan.upfirdn2d(dy, f, *ctx.transposed), None, None
        return _Resample.apply(dy, f, ctx.transposed), None, None


def _compute(x: Tensor, f: Tensor, geometry: Resampling) -> Tensor:
    """Compute the result by kernels, by matrix products or by convolutions, without recording derivatives."""
    if x.numel() > 0 and not torch.jit.is_tracing():
        kernels = native.kernels(x)
        if kernels is not None and kernels.supports_upfirdn2d(x, f, geometry):
            return kernels.upfirdn2d(x, f, geometry)
    if _suits_matrix_products(x, f, geometry):
        taps = _taps_xy(f)
        if taps is not None:
            y = _matrix_products(x, taps, geometry)
            # Matrix products also multiply by the zeros outside the band: one infinite pixel would affect all others.
            if y.sum(dtype=torch.float32).isfinite():
                return y
    return _strided_convolutions(x, f, geometry)


# ---------------------------------------------------------------------------------------------------------------------
# Strided convolutions


def _strided_convolutions(x: Tensor, f: Tensor, geometry: Resampling) -> Tensor:
    """Upsample by transposed convolution and downsample by stride, so that no inserted zero is multiplied."""
    if geometry.up != (1, 1) and x.device.type == 'cpu' and x.dtype.itemsize == 2:
        # Without 16-bit instructions, PyTorch's transposed convolution rounds each product and each partial sum.
        return _strided_convolutions(x.float(), f, geometry).to(x.dtype)
    c = x.shape[1]
    memory_format = memory_format_of(x)
    up_x, up_y = geometry.up
    down_x, down_y = geometry.down
    x0, x1, y0, y1 = geometry.padding
    kernels = _correlation_kernels(f, geometry, x.dtype)
    for kernel in kernels:
        kh, kw = kernel.shape
        if len(kernels) == 2:  # One axis at a time.
            along_x = kernel is kernels[0]
            up, down = ((1, up_x), (1, down_x)) if along_x else ((up_y, 1), (down_y, 1))
            sides = (x0, x1, 0, 0) if along_x else (0, 0, y0, y1)
        else:
            up, down, sides = (up_y, up_x), (down_y, down_x), geometry.padding
        if up == (1, 1):
            x = F.conv2d(F.pad(x, sides), kernel.expand(c, 1, -1, -1), stride=down, groups=c)
        else:
            # The full convolution extends k - 1 pixels beyond the image at the front, k - up at the back.
            x = F.conv_transpose2d(x, kernel.flip([0, 1]).expand(c, 1, -1, -1), stride=up, groups=c)
            x = F.pad(x, [sides[0] - kw + 1, sides[1] - kw + up[1], sides[2] - kh + 1, sides[3] - kh + up[0]])
            x = x[:, :, :: down[0], :: down[1]]
    return x.contiguous(memory_format=memory_format)


# ---------------------------------------------------------------------------------------------------------------------
# Matrix products


def _suits_matrix_products(x: Tensor, f: Tensor, geometry: Resampling) -> bool:
    if x.device.type != 'cpu' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if geometry.up == (1, 1) and f.ndim == 2:
        return False
    return max(*x.shape[2:], *geometry.output_size(x.shape, f)) <= LARGEST_BANDED_SIZE[f.ndim]


def _taps_xy(f: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the taps of a filter along x and along y, or None for a filter that is not an outer product."""
    if f.ndim == 1:
        taps = tuple(f.tolist())
        return taps, taps
    return _factorize(tuple(map(tuple, f.tolist())), 4 * torch.finfo(f.dtype).eps)


@functools.lru_cache(maxsize=256)
def _factorize(
    rows: tuple[tuple[float, ...], ...], tolerance: float
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    f = np.array(rows)
    y, x = np.unravel_index(np.abs(f).argmax(), f.shape)
    if f[y, x] == 0:
        return (0.0,) * f.shape[1], (0.0,) * f.shape[0]
    along_x, along_y = f[y, :], f[:, x] / f[y, x]
    if np.abs(f - np.outer(along_y, along_x)).max() > tolerance * np.abs(f[y, x]):
        return None
    return tuple(along_x.tolist()), tuple(along_y.tolist())


def _matrix_products(x: Tensor, taps: tuple[tuple[float, ...], tuple[float, ...]], geometry: Resampling) -> Tensor:
    n, c, h, w = x.shape
    x0, x1, y0, y1 = geometry.padding
    gain = geometry.gain
    along_x = _banded_matrix(taps[0], w, geometry.up[0], geometry.down[0], x0, x1, geometry.flip_filter, gain, x.dtype)
    along_y = _banded_matrix(taps[1], h, geometry.up[1], geometry.down[1], y0, y1, geometry.flip_filter, 1.0, x.dtype)
    out_h, out_w = along_y.shape[0], along_x.shape[0]
    if not is_channels_last(x):
        return along_y @ (x @ along_x.T)  # N C H' W'
    x = along_x @ x.permute(0, 2, 3, 1)  # N H W' C
    x = along_y @ x.reshape(n, h, out_w * c)  # N H' W'C
    return x.reshape(n, out_h, out_w, c).permute(0, 3, 1, 2)  # N C H' W'


@functools.lru_cache(maxsize=128)
def _banded_matrix(
    taps: tuple[float, ...],
    size: int,
    up: int,
    down: int,
    pad0: int,
    pad1: int,
    flip_filter: bool,
    gain: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return zero insertion, padding, filter and downsampling along one axis as a matrix [output size, size]."""
    kernel = np.array(taps if flip_filter else taps[::-1]) * gain
    out_size = (size * up + pad0 + pad1 - len(kernel)) // down + 1
    o, i = np.arange(out_size)[:, None], np.arange(size)[None, :]
    tap = i * up + pad0 - o * down
    inside = (tap >= 0) & (tap < len(kernel))
    matrix = np.where(inside, kernel[tap.clip(0, len(kernel) - 1)], 0)
    with torch.inference_mode(False):  # The matrix is cached for later calls, which may be differentiated.
        return torch.from_numpy(matrix).to(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Registered operator
#
# torch.ops.ada_gan.upfirdn2d, for torch.compile and torch.export.


@library.custom_op(
    'ada_gan::upfirdn2d',
    mutates_args=(),
    schema='(Tensor x, Tensor f, SymInt[] up, SymInt[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor',
)
def _upfirdn2d_op(x: Tensor, f: Tensor, *geometry: Any) -> Tensor:
    y = _compute(x, f, Resampling.from_sequences(*geometry))
    return y.clone() if y is x else y


@_upfirdn2d_op.register_fake
def _fake_result(x: Tensor, f: Tensor, *geometry: Any) -> Tensor:
    out_h, out_w = Resampling.from_sequences(*geometry).output_size(x.shape, f)
    return x.new_empty([x.shape[0], x.shape[1], out_h, out_w]).contiguous(memory_format=memory_format_of(x))


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *geometry = inputs
    ctx.save_for_backward(f)
    ctx.transposed = Resampling.from_sequences(*geometry).transposed(x.shape, f)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    return torch.ops.ada_gan.upfirdn2d(dy, f, *ctx.transposed), None, None, None, None, None, None


_upfirdn2d_op.register_autograd(_backward, setup_context=_save_for_backward)
