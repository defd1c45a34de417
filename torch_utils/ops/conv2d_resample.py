"""2-D convolution between an upsampling and a downsampling of its input.

Legend: N images, I and O channels in and out, H and W rows and columns; kh and kw taps of the weights.

Filters and convolutions commute, and so do the zero insertion and the convolution when the latter is transposed.
`conv2d_resample` uses that to convolve at the lowest resolution; `_general` is the definition, and what is left over.
"""

from torch_utils.ops import conv2d_gradfix
from torch_utils.ops.arguments import check_image_batch, factor, padding_xxyy
from torch_utils.ops.upfirdn2d import filter_size, upfirdn2d


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """Upsample images, convolve them, downsample them.

    Args:
        x: images [N, I, H, W].
        w: weights [O, I / groups, kh, kw] of x's type.
        f: low-pass filter from `upfirdn2d.setup_filter` for both resamplings, or None.
        up, down: integer factors.
        padding: with respect to the upsampled image, an integer, [x, y] or [x0, x1, y0, y1]; negative numbers crop.
            What the filters need is added to it: kh // 2 keeps the size of the image (times up / down).
        groups: of channels, as in `torch.nn.functional.conv2d`.
        flip_weight: True: correlation, as in torch; False: convolution.
        flip_filter: False: convolution with f; True: correlation.

    Returns: images [N, O, H', W'].
    """
    check_image_batch('conv2d_resample', x)
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups != 0:
        raise ValueError(
            f'conv2d_resample: weights of shape {list(w.shape)} with groups={groups} do not fit x of '
            f'shape {list(x.shape)}; they must be [O, I / groups, kh, kw] for x [N, I, H, W]'
        )
    up, down = factor('conv2d_resample', 'up', up), factor('conv2d_resample', 'down', down)
    sides = _with_filter_margins(padding_xxyy('conv2d_resample', padding), f, up, down)
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
    return _general(x, w, f, up, down, sides, groups, flip_weight, flip_filter)


def _general(x, w, f, up, down, sides, groups, flip_weight, flip_filter):
    """The definition: everything at the upsampled resolution. `sides` includes what the filters need."""
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=sides, gain=up**2, flip_filter=flip_filter)
    x = _convolve(x, w, groups=groups, flip_weight=flip_weight)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


def _with_filter_margins(sides, f, up, down):
    """Padding (x0, x1, y0, y1) that keeps the image centred and its size a multiple under both resamplings."""
    margins = []
    for taps in filter_size(f):
        front = back = 0
        if up > 1:
            front, back = front + (taps + up - 1) // 2, back + (taps - up) // 2
        if down > 1:
            front, back = front + (taps - down + 1) // 2, back + (taps - down) // 2
        margins += [front, back]
    return tuple(side + margin for side, margin in zip(sides, margins))


def _convolve(x, w, stride=1, padding=0, groups=1, flip_weight=True):
    if not flip_weight and w.shape[2:] != (1, 1):
        w = w.flip([2, 3])
    return conv2d_gradfix.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _upsampling_convolution(x, w, f, up, sides, groups, flip_weight, flip_filter):
    """Transposed convolution with stride `up`, then the filter at the upsampled resolution.

    The transposed convolution is full: it goes k - 1 pixels beyond the upsampled image at the front and k - up at the
    back, so the filter's padding is that much smaller. What would be cropped at both ends is not computed at all.
    """
    out_channels, group_in, kh, kw = w.shape
    if flip_weight:
        w = w.flip([2, 3])  # A transposed convolution is a convolution.
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
