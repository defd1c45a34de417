"""The nonlinearity of StyleGAN3 (arXiv 2106.12423, section 3.1): leaky ReLU at a raised sampling rate.

Upsampling, filter, leaky ReLU, filter, downsampling: the high frequencies that the corner of the leaky ReLU makes
are filtered away before they can alias. `_in_parts` is the definition, and serves where there is no kernel for the
whole.

A kernel for the whole keeps the image between in fast memory, and of it writes only a mask: two bits a pixel tell the
slope there. With the mask held fixed the operation is linear, and its transpose is again upsampling, mask and
downsampling (`Masked.transposed`), so one function serves all derivatives.
"""

import math
from typing import NamedTuple

import torch

from torch_utils.ops import native
from torch_utils.ops.arguments import check_image_batch, check_impl, factor, padding_xxyy
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import upfirdn2d


def filtered_lrelu(
    x,
    fu=None,
    fd=None,
    b=None,
    up=1,
    down=1,
    padding=0,
    gain=math.sqrt(2),
    slope=0.2,
    clamp=None,
    flip_filter=False,
    impl='cuda',
):
    """Add a bias, upsample, apply a leaky ReLU, downsample.

    Args:
        x: float tensor [N, C, H, W].
        fu, fd: upsampling and downsampling filter from `upfirdn2d.setup_filter`, or None.
        b: bias [C], or None.
        up, down: integer factors.
        padding: with respect to the upsampled image, an integer, [x, y] or [x0, x1, y0, y1].
        gain: factor after the leaky ReLU.
        slope: of the leaky ReLU for negative numbers.
        clamp: largest magnitude before the downsampling; None: no limit.
        flip_filter: False: convolution with the filters; True: correlation.
        impl: 'cuda', the fastest that is available, or 'ref', plain PyTorch.

    Returns: tensor [N, C, H', W'] of x's type.
    """
    check_impl('filtered_lrelu', impl)
    check_image_batch('filtered_lrelu', x)
    up, down = factor('filtered_lrelu', 'up', up), factor('filtered_lrelu', 'down', down)
    if impl == 'cuda' and slope >= 0 and gain > 0 and (clamp is None or clamp >= 0) and x.numel() > 0:
        kernels = _kernels(x, fu, fd, up, down, b)
        if kernels is not None:
            sides = padding_xxyy('filtered_lrelu', padding)
            b = None if b is None else b.to(x.dtype)
            clamp = None if clamp is None else float(clamp)
            return _filtered_lrelu(x, fu, fd, b, up, down, sides, float(gain), float(slope), clamp, bool(flip_filter))
    return _in_parts(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter, impl)


def _in_parts(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter, impl):
    x = bias_act(x, b, impl=impl)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter, impl=impl)
    x = bias_act(x, act='lrelu', alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter, impl=impl)


# ----------------------------------------------------------------------------------------------------------------
# One kernel for the whole.


def _kernels(x, fu, fd, up, down, b):
    """The module of kernels for this call, or None. Calls that are traced or transformed go by way of the parts."""
    if native.route(x) != 'eager':
        return None
    if any(f is not None and f.requires_grad for f in (fu, fd)) or (b is not None and b.shape != (x.shape[1],)):
        return None
    kernels = native.kernels(x)
    return kernels if kernels is not None and kernels.supports_filtered_lrelu(x, fu, fd, up, down) else None


def _filtered_lrelu(x, fu, fd, b, *constants):
    if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
        return _FilteredLrelu.apply(x, b, fu, fd, *constants)
    y, _mask = native.kernels(x).filtered_lrelu(x, fu, fd, b, *constants, want_mask=False)
    return y


class Masked(NamedTuple):
    """The operation with a fixed mask. Pairs are (x, y); `pad` is before the image at the raised rate, `offset` the
    position of the first output's first pixel there, whose size is `mask_size`."""

    up: int
    down: int
    pad: tuple
    offset: tuple
    mask_size: tuple
    in_size: tuple
    out_size: tuple
    gain: float
    slope: float
    flip_filter: bool

    def transposed(self, fu, fd):
        taps_up, taps_down = _taps(fu), _taps(fd)
        return Masked(
            self.down,
            self.up,
            tuple(taps_down - 1 - q for q in self.offset),
            tuple(taps_up - 1 - p for p in self.pad),
            self.mask_size,
            self.out_size,
            self.in_size,
            self.gain,
            self.slope,
            not self.flip_filter,
        )

    def __call__(self, x, mask, fu, fd):
        padding = (self.pad[0], 0, self.pad[1], 0)
        return native.kernels(x).filtered_lrelu_masked(
            x,
            mask,
            fu,
            fd,
            self.up,
            self.down,
            padding,
            self.offset,
            self.mask_size,
            self.out_size,
            self.gain,
            self.slope,
            self.flip_filter,
        )


def _taps(f):
    return 1 if f is None else f.shape[0]


class _FilteredLrelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, fu, fd, up, down, sides, gain, slope, clamp, flip_filter):
        y, mask = native.kernels(x).filtered_lrelu(
            x, fu, fd, b, up, down, sides, gain, slope, clamp, flip_filter, want_mask=True
        )
        h, w = x.shape[2:]
        x0, x1, y0, y1 = sides
        mask_size = (w * up + x0 + x1 - _taps(fu) + 1, h * up + y0 + y1 - _taps(fu) + 1)
        masked = Masked(
            up, down, (x0, y0), (0, 0), mask_size, (w, h), (y.shape[3], y.shape[2]), gain * up**2, slope, flip_filter
        )
        ctx.save_for_backward(mask, fd, fu)  # in the order that they act on the way back
        ctx.masked = masked.transposed(fu, fd)
        return y

    @staticmethod
    def backward(ctx, dy):
        dx = _ApplyMask.apply(dy, *ctx.saved_tensors, ctx.masked)
        db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[1] else None
        return dx, db, *[None] * 9


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask, fu, fd, masked):
        ctx.save_for_backward(mask, fd, fu)
        ctx.masked = masked.transposed(fu, fd)
        return masked(x, mask, fu, fd)

    @staticmethod
    def backward(ctx, dy):
        return _ApplyMask.apply(dy, *ctx.saved_tensors, ctx.masked), None, None, None, None
