"""Resampling of images: upsample by zero insertion, pad or crop, filter, and keep every n-th pixel.

Legend: N images, C channels, H and W rows and columns; kh and kw taps of the filter.

Read `_textbook` for the meaning. The fast way rests on two facts. The whole operation is linear, and its transpose
is again one of its kind (`Resampling.transposed`): one autograd function therefore serves forward, backward and all
higher derivatives. And a filter that is an outer product (as [1,3,3,1] is) acts on rows and columns separately.

Where there are kernels for a tensor (see `native`) they do the work. Elsewhere, upsampling, padding, filter and
downsampling together are one small banded matrix for each axis, so that two matrix products do everything; on a CPU
that beats convolutions for upsampling and for long filters, as long as the images are small. What is left goes
through strided convolutions.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import library

from torch_utils.ops import native
from torch_utils.ops.arguments import check_image_batch, check_impl, factor_xy, padding_xxyy

SEPARABLE_FROM_TAPS = 8  # The format's rule: shorter filters are two-dimensional in the pickles.

# Pixels along an axis up to which matrix products are used, by the filter's rank: their work grows with the size of
# the image, that of a filter with its taps. Measured on an AMD EPYC with [1,3,3,1] and with 12 taps.
LARGEST_BANDED_SIZE = {1: 2048, 2: 128}


def setup_filter(f, device=torch.device('cpu'), normalize=True, flip_filter=False, gain=1, separable=None):
    """Prepare a filter for the functions below.

    Args:
        f: taps as a number, a list, an array or a tensor of rank 0, 1 or 2; None is the filter that does nothing.
        normalize: scale the taps to the sum 1.
        flip_filter: reverse the taps.
        gain: factor for the whole image; a filter of rank 1, which is used twice, gets its square root.
        separable: keep a filter of rank 1 as it is (True) or make it two-dimensional (False);
            None: the former from 8 taps on.

    Returns: float32 tensor of shape [kh, kw], or [k] for a separable filter.
    """
    f = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device='cpu')  # also under a default device
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(
            f'setup_filter: f must be a number, a vector or a matrix with at least one tap, '
            f'but has the shape {list(f.shape)}'
        )
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_FROM_TAPS
    if separable and f.ndim == 2:
        raise ValueError(f'setup_filter: separable=True needs a vector of taps, but f has the shape {list(f.shape)}')
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'):
    """Upsample, pad, filter and downsample a batch of images, in this order.

    Args:
        x: float tensor [N, C, H, W], contiguous or channels-last.
        f: filter from `setup_filter`, [kh, kw] or separable [k], on x's device; None: no filtering.
        up: upsampling factor, an integer or [x, y]: each pixel is followed by up - 1 zeros.
        down: downsampling factor, an integer or [x, y]: the first of each `down` pixels stays.
        padding: zeros around the upsampled image, an integer, [x, y] or [x0, x1, y0, y1]; negative numbers crop.
        flip_filter: False: convolution; True: correlation.
        gain: factor for the result.
        impl: 'cuda', the fastest that is available, or 'ref', plain PyTorch.

    Returns: tensor [N, C, (H * up + y0 + y1 - kh) // down + 1, (W * up + x0 + x1 - kw) // down + 1] of x's type.
    Gradients reach x, and f where it requires them (then the plain way is taken).
    """
    check_impl('upfirdn2d', impl)
    check_image_batch('upfirdn2d', x)
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    if f.ndim not in (1, 2):
        raise ValueError(f'upfirdn2d: the filter must have the shape [kh, kw] or [k], but has {list(f.shape)}')
    geometry = Resampling(
        factor_xy('upfirdn2d', 'up', up),
        factor_xy('upfirdn2d', 'down', down),
        padding_xxyy('upfirdn2d', padding),
        bool(flip_filter),
        float(gain),
    )
    out_h, out_w = geometry.output_size(x.shape, f)
    if out_h < 1 or out_w < 1:
        raise ValueError(
            f'upfirdn2d: an image of {x.shape[2]}x{x.shape[3]} pixels with up={up}, down={down} and '
            f'padding={padding} is smaller than the filter, whose shape is {list(f.shape)}; pad it more'
        )
    route = 'textbook' if impl == 'ref' or f.requires_grad else native.route(x)
    if route == 'textbook':
        return _textbook(x, f, geometry)
    if route == 'library':
        return torch.ops.ada_gan.upfirdn2d(x, f, *geometry)
    if x.requires_grad and torch.is_grad_enabled():
        return _Resample.apply(x, f, geometry)
    return _compute(x, f, geometry)


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl='cuda'):
    """Filter images [N, C, H, W] so that their size stays, plus `padding`. Arguments as for `upfirdn2d`."""
    kw, kh = filter_size(f)
    x0, x1, y0, y1 = padding_xxyy('filter2d', padding)
    sides = [x0 + kw // 2, x1 + (kw - 1) // 2, y0 + kh // 2, y1 + (kh - 1) // 2]
    return upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'):
    """Enlarge images [N, C, H, W] to `up` times their size, plus `padding` (in pixels of the result).

    The brightness stays (the zeros between the pixels are made up for). Arguments as for `upfirdn2d`.
    """
    kw, kh = filter_size(f)
    up_x, up_y = factor_xy('upsample2d', 'up', up)
    x0, x1, y0, y1 = padding_xxyy('upsample2d', padding)
    sides = [x0 + (kw + up_x - 1) // 2, x1 + (kw - up_x) // 2, y0 + (kh + up_y - 1) // 2, y1 + (kh - up_y) // 2]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'):
    """Shrink images [N, C, H, W] to 1 / `down` of their size after `padding`. Arguments as for `upfirdn2d`."""
    kw, kh = filter_size(f)
    down_x, down_y = factor_xy('downsample2d', 'down', down)
    x0, x1, y0, y1 = padding_xxyy('downsample2d', padding)
    sides = [x0 + (kw - down_x + 1) // 2, x1 + (kw - down_x) // 2, y0 + (kh - down_y + 1) // 2, y1 + (kh - down_y) // 2]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)


def filter_size(f):
    """Taps of a filter along x and y: (kw, kh); (1, 1) for None."""
    if f is None:
        return 1, 1
    return int(f.shape[-1]), int(f.shape[0])


class Resampling(NamedTuple):
    """What `upfirdn2d` is to do, in one form: pairs are (x, y), padding is (x0, x1, y0, y1)."""

    up: tuple
    down: tuple
    padding: tuple
    flip_filter: bool
    gain: float

    def output_size(self, x_shape, f):
        (kw, kh), (x0, x1, y0, y1) = filter_size(f), self.padding
        h, w = x_shape[2:]
        return (
            (h * self.up[1] + y0 + y1 - kh) // self.down[1] + 1,
            (w * self.up[0] + x0 + x1 - kw) // self.down[0] + 1,
        )

    def transposed(self, x_shape, f):
        """The resampling whose matrix is the transpose of this one's for images of this shape.

        Output o takes input i with the tap o * down + k - 1 - pad0 - i * up of the (convolution's) filter. With the
        two sampling factors exchanged and the filter reversed the same taps connect o to i when the new pad0 is
        k - 1 - pad0; the other side then follows from the size that must come out.
        """
        (kw, kh), (x0, _, y0, _) = filter_size(f), self.padding
        out_h, out_w = self.output_size(x_shape, f)
        sides = []
        for size, out, k, pad0, up, down in (
            (x_shape[3], out_w, kw, x0, self.up[0], self.down[0]),
            (x_shape[2], out_h, kh, y0, self.up[1], self.down[1]),
        ):
            new_pad0 = k - 1 - pad0
            sides += [new_pad0, (size - 1) * up + k - new_pad0 - out * down]
        return Resampling(self.down, self.up, tuple(sides), not self.flip_filter, self.gain)


def _textbook(x, f, geometry):
    """The definition, step by step."""
    up_x, up_y = geometry.up
    down_x, down_y = geometry.down
    n, c, h, w = x.shape

    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = x.reshape(n, c, h * up_y, w * up_x)
    x = F.pad(x, geometry.padding)
    for kernel in _kernels(f, geometry, x.dtype):
        x = F.conv2d(x, kernel.expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::down_y, ::down_x]


def _kernels(f, geometry, dtype):
    """The filter as one kernel [kh, kw], or as two, [1, k] and [k, 1]; correlation with them is what is asked for."""
    f = f * geometry.gain ** (f.ndim / 2)
    if not geometry.flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    f = f.to(dtype)
    return [f] if f.ndim == 2 else [f[None, :], f[:, None]]


# ----------------------------------------------------------------------------------------------------------------
# The fast way.


class _Resample(torch.autograd.Function):
    """Resampling as a linear map: its derivative is the transposed resampling, again and again."""

    @staticmethod
    def forward(ctx, x, f, geometry):
        ctx.save_for_backward(f)
        ctx.way_back = geometry.transposed(x.shape, f)
        return _compute(x, f, geometry)

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        if native.route(dy) == 'library':
            return torch.ops.ada_gan.upfirdn2d(dy, f, *ctx.way_back), None, None
        return _Resample.apply(dy, f, ctx.way_back), None, None


def _compute(x, f, geometry):
    if x.numel() > 0 and not torch.jit.is_tracing():
        kernels = native.kernels(x)
        if kernels is not None and kernels.supports_upfirdn2d(x, f, geometry.up, geometry.down):
            return kernels.upfirdn2d(x, f, *geometry)
    if _suits_matrices(x, f, geometry):
        taps = _taps_xy(f)
        if taps is not None:
            y = _matrix_products(x, taps, geometry)
            # A matrix product multiplies by the zeros outside of the band too: one infinite pixel would fill the image.
            if y.sum(dtype=torch.float32).isfinite():
                return y
    return _strided_convolutions(x, f, geometry)


def _suits_matrices(x, f, geometry):
    if x.device.type != 'cpu' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if geometry.up == (1, 1) and f.ndim == 2:
        return False
    return max(x.shape[2:] + geometry.output_size(x.shape, f)) <= LARGEST_BANDED_SIZE[f.ndim]


def _strided_convolutions(x, f, geometry):
    """Upsampling by transposed convolution, downsampling by stride: no inserted zero is multiplied."""
    c = x.shape[1]
    memory_format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    up_x, up_y = geometry.up
    down_x, down_y = geometry.down
    x0, x1, y0, y1 = geometry.padding
    kernels = _kernels(f, geometry, x.dtype)
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
            # The full convolution reaches k - 1 pixels beyond the image at the front, k - up at the back.
            x = F.conv_transpose2d(x, kernel.flip([0, 1]).expand(c, 1, -1, -1), stride=up, groups=c)
            x = F.pad(x, [sides[0] - kw + 1, sides[1] - kw + up[1], sides[2] - kh + 1, sides[3] - kh + up[0]])
            x = x[:, :, :: down[0], :: down[1]]
    return x.contiguous(memory_format=memory_format)


def _is_channels_last(x):
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _taps_xy(f):
    """The filter's taps along x and along y as tuples of numbers, or None for a filter that is no outer product."""
    if f.ndim == 1:
        taps = tuple(f.tolist())
        return taps, taps
    return _factorise(tuple(map(tuple, f.tolist())), 4 * torch.finfo(f.dtype).eps)


@functools.lru_cache(maxsize=256)
def _factorise(rows, tolerance):
    f = np.array(rows)
    y, x = np.unravel_index(np.abs(f).argmax(), f.shape)
    if f[y, x] == 0:
        return (0.0,) * f.shape[1], (0.0,) * f.shape[0]
    along_x, along_y = f[y, :], f[:, x] / f[y, x]
    if np.abs(f - np.outer(along_y, along_x)).max() > tolerance * np.abs(f[y, x]):
        return None
    return tuple(along_x.tolist()), tuple(along_y.tolist())


def _matrix_products(x, taps, geometry):
    n, c, h, w = x.shape
    x0, x1, y0, y1 = geometry.padding
    gain = geometry.gain
    along_x = _banded_matrix(taps[0], w, geometry.up[0], geometry.down[0], x0, x1, geometry.flip_filter, gain, x.dtype)
    along_y = _banded_matrix(taps[1], h, geometry.up[1], geometry.down[1], y0, y1, geometry.flip_filter, 1.0, x.dtype)
    out_h, out_w = along_y.shape[0], along_x.shape[0]
    if not _is_channels_last(x):
        return along_y @ (x @ along_x.T)  # N C H' W'
    x = along_x @ x.permute(0, 2, 3, 1)  # N H W' C
    x = along_y @ x.reshape(n, h, out_w * c)  # N H' W'C
    return x.reshape(n, out_h, out_w, c).permute(0, 3, 1, 2)  # N C H' W'


@functools.lru_cache(maxsize=128)
def _banded_matrix(taps, size, up, down, pad0, pad1, flip_filter, gain, dtype):
    """Zero insertion, padding, filter and downsampling along one axis as a matrix [output size, size]."""
    taps = np.array(taps if flip_filter else taps[::-1]) * gain
    out_size = (size * up + pad0 + pad1 - len(taps)) // down + 1
    o, i = np.arange(out_size)[:, None], np.arange(size)[None, :]
    tap = i * up + pad0 - o * down
    inside = (tap >= 0) & (tap < len(taps))
    matrix = np.where(inside, taps[tap.clip(0, len(taps) - 1)], 0)
    with torch.inference_mode(False):  # Kept for later calls, which may be differentiated.
        return torch.from_numpy(matrix).to(dtype)


# ----------------------------------------------------------------------------------------------------------------
# The same as an operator of torch.ops, for torch.compile and torch.export.


@library.custom_op(
    'ada_gan::upfirdn2d',
    mutates_args=(),
    schema='(Tensor x, Tensor f, SymInt[] up, SymInt[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor',
)
def _upfirdn2d_op(x, f, up, down, padding, flip_filter, gain):
    y = _compute(x, f, Resampling(tuple(up), tuple(down), tuple(padding), flip_filter, gain))
    return y.clone() if y is x else y


@_upfirdn2d_op.register_fake
def _shape_of_result(x, f, up, down, padding, flip_filter, gain):
    out_h, out_w = Resampling(up, down, padding, flip_filter, gain).output_size(x.shape, f)
    memory_format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return x.new_empty([x.shape[0], x.shape[1], out_h, out_w]).contiguous(memory_format=memory_format)


def _keep(ctx, inputs, output):
    x, f, *geometry = inputs
    ctx.save_for_backward(f)
    ctx.way_back = Resampling(*geometry).transposed(x.shape, f)


def _way_back(ctx, dy):
    (f,) = ctx.saved_tensors
    return torch.ops.ada_gan.upfirdn2d(dy, f, *ctx.way_back), None, None, None, None, None, None


_upfirdn2d_op.register_autograd(_way_back, setup_context=_keep)
