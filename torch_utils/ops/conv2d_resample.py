"""2-D convolution between an upsampling and a downsampling of its input.

Legend: N images, I and O input and output channels, H and W rows and columns; kh and kw taps of the weights.

By definition, everything happens at the upsampled resolution: zero insertion, padding, filter, convolution, filter,
downsampling. But filters and convolutions commute, and so do zero insertion and a convolution if the latter is
transposed. `conv2d_resample` uses this to convolve at the lowest resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torch_utils.ops import conv2d_gradfix
from torch_utils.ops.arguments import check_image_batch, parse_factor, parse_padding
from torch_utils.ops.modulated_layer import modulated_layer as modulated_layer  # networks look it up in this module
from torch_utils.ops.resampling import filter_size
from torch_utils.ops.upfirdn2d import upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsample images, convolve them, and downsample the result.

    Args:
        x: Images [N, I, H, W].
        w: Weights [O, I / groups, kh, kw] with x's type.
        f: Low-pass filter from `upfirdn2d.setup_filter` for both resamplings, or None.
        up: Upsampling factor.
        down: Downsampling factor.
        padding: Padding with respect to the upsampled image, an integer, [x, y] or [x0, x1, y0, y1]; negative numbers
            crop. The padding that the filters need is added to it: kh // 2 preserves the size (times up / down).
        groups: Groups of channels, as in `torch.nn.functional.conv2d`.
        flip_weight: True for correlation, as in PyTorch; False for convolution.
        flip_filter: False for convolution with `f`; True for correlation.

    Returns:
        Images [N, O, H', W'].

    Raises:
        ValueError: An argument is invalid, or the shapes of x and w do not match.
    """
    check_image_batch('conv2d_resample', x)
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups != 0:
        raise ValueError(
            f'conv2d_resample: weights of shape {list(w.shape)} with groups={groups} do not match x of '
            f'shape {list(x.shape)}; they must be [O, I / groups, kh, kw] for x [N, I, H, W]'
        )
    up, down = parse_factor('conv2d_resample', 'up', up), parse_factor('conv2d_resample', 'down', down)
    sides = _with_filter_margins(parse_padding('conv2d_resample', padding), f, up, down)
    return _dispatch(x, w, f, up, down, sides, groups, flip_weight, flip_filter)


def _dispatch(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    sides: tuple[int, int, int, int],
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """Choose the order of the operations that convolves at the lowest resolution."""
    pointwise = w.shape[2:] == (1, 1)
    if pointwise and up == 1 and down > 1:
        x = upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter)
        return _convolve(x, w, groups=groups)
    if pointwise and up > 1 and down == 1:
        x = _convolve(x, w, groups=groups)
        return upfirdn2d(x, f, up=up, padding=sides, gain=up**2, flip_filter=flip_filter)
    if up == 1 and down > 1:
        x = upfirdn2d(x, f, padding=sides, flip_filter=flip_filter)
        return _convolve(x, w, stride=down, groups=groups, flip_weight=flip_weight)
    if up > 1:
        x = _upsampling_convolution(x, w, f, up, sides, groups, flip_weight, flip_filter)
        return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x
    x0, x1, y0, y1 = sides
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return _convolve(x, w, padding=(y0, x0), groups=groups, flip_weight=flip_weight)
    x = upfirdn2d(x, None, padding=sides)  # `conv2d` supports neither asymmetric nor negative padding.
    return _convolve(x, w, groups=groups, flip_weight=flip_weight)


def _with_filter_margins(
    sides: tuple[int, int, int, int], f: Tensor | None, up: int, down: int
) -> tuple[int, int, int, int]:
    """Return padding (x0, x1, y0, y1) with which both resamplings keep the image centered and scale its size."""
    margins = []
    for taps in filter_size(f):
        front = back = 0
        if up > 1:
            front, back = front + (taps + up - 1) // 2, back + (taps - up) // 2
        if down > 1:
            front, back = front + (taps - down + 1) // 2, back + (taps - down) // 2
        margins += [front, back]
    x0, x1, y0, y1 = (side + margin for side, margin in zip(sides, margins))
    return x0, x1, y0, y1


def _convolve(
    x: Tensor, w: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0, groups: int = 1, flip_weight: bool = True
) -> Tensor:
    if not flip_weight and w.shape[2:] != (1, 1):
        w = w.flip([2, 3])
    return conv2d_gradfix.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _upsampling_convolution(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    sides: tuple[int, int, int, int],
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """Apply a transposed convolution with stride `up`, then the filter at the upsampled resolution.

    The transposed convolution is full: it extends k - 1 pixels beyond the upsampled image at the front and k - up at
    the back, so the filter needs that much less padding. Pixels that would be cropped at both ends are not computed.
    """
    out_channels, group_in, kh, kw = w.shape
    if flip_weight:
        w = w.flip([2, 3])  # A transposed convolution is a convolution, not a correlation.
    if groups == 1:
        w = w.transpose(0, 1)  # I O kh kw
    else:
        w = w.reshape(groups, out_channels // groups, group_in, kh, kw).transpose(1, 2)  # groups I/g O/g kh kw
        w = w.reshape(groups * group_in, out_channels // groups, kh, kw)

    x0, x1, y0, y1 = sides
    x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
    skip_x, skip_y = max(0, min(-x0, -x1)), max(0, min(-y0, -y1))
    x = conv2d_gradfix.conv_transpose2d(x, w, stride=up, padding=(skip_y, skip_x), groups=groups)
    return upfirdn2d(
        x, f, padding=[x0 + skip_x, x1 + skip_x, y0 + skip_y, y1 + skip_y], gain=up**2, flip_filter=flip_filter
    )
