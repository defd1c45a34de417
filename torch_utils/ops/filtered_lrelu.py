"""The nonlinearity of StyleGAN3 (arXiv 2106.12423, section 3.1): leaky ReLU at a raised sampling rate.

Upsampling, filter, leaky ReLU, filter, downsampling: the high frequencies that the corner of the leaky ReLU makes
are filtered away before they can alias. A native kernel takes its place in `filtered_lrelu`.
"""

import math

from torch_utils.ops.arguments import check_image_batch, check_impl, factor
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import upfirdn2d


def filtered_lrelu(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=math.sqrt(2), slope=0.2, clamp=None,
                   flip_filter=False, impl='cuda'):
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
    x = bias_act(x, b, impl=impl)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up ** 2, flip_filter=flip_filter, impl=impl)
    x = bias_act(x, act='lrelu', alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter, impl=impl)
