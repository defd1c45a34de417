"""3×3 convolutions, their transposes and gradients by kernels that multiply less than the definition does.

There are three kinds, each a linear map of images x [N, I, H, W] with weights w [O, I, 3, 3]:

| kind | y | adjoint in x |
|---|---|---|
| 'keep' | [N, O, H, W], `conv2d` with padding 1 | 'keep', weights rotated by 180 degrees |
| 'halve' | [N, O, (H - 1) // 2, (W - 1) // 2], `conv2d` with stride 2 | 'twice' |
| 'twice' | [N, O, 2 H + 1, 2 W + 1], or one row or column of zeros more: `conv_transpose2d` with stride 2 | 'halve' |

The gradient in the images is thus a convolution again, and the one in the weights is bilinear in x and dy, so that
`_Convolve` and `_WeightGradient` differentiate each other, as often as anyone wants.

The kernels (`cpu_winograd.h`) are as exact as PyTorch's own convolutions. They are not finite where those are not, but
may give NaN where those give an infinity.
"""

import torch
import torch.nn.functional as F

from torch_utils.ops import native

_ADJOINT = {'keep': 'keep', 'halve': 'twice', 'twice': 'halve'}
_OF_CONV2D = {((1, 1), (1, 1)): 'keep', ((2, 2), (0, 0)): 'halve'}  # By stride and padding.

# Pixels, of the smaller of x and y, from which on the kernels beat PyTorch; below, the transformation of the weights,
# which PyTorch does not need, takes longer than it saves.
_FEWEST_PIXELS = {'keep': 256, 'halve': 4096, 'twice': 4096}
_FEWEST_PIXELS_FOR_WEIGHTS = {'keep': 1024, 'halve': 512}


def kind_of_conv2d(x, w, stride, padding):
    """The kind that `conv2d` of x and w [O, I, kh, kw] is, if it is to be computed here, else None."""
    kind = _OF_CONV2D.get((stride, padding))
    return kind if kind is not None and _is_served(x, w, axis_in=1) else None


def kind_of_conv_transpose2d(x, w, stride, padding):
    """The same for `conv_transpose2d` of x and w [I, O, kh, kw]."""
    return 'twice' if (stride, padding) == ((2, 2), (0, 0)) and _is_served(x, w, axis_in=0) else None


def _is_served(x, w, axis_in):
    # Whoever traces or compiles must not meet a decision that depends on sizes.
    if not _are_plain(x, w) or x.device.type != 'cpu' or w.device != x.device or torch.is_autocast_enabled('cpu'):
        return False
    if x.ndim != 4 or w.ndim != 4 or w.shape[2:] != (3, 3) or w.shape[axis_in] != x.shape[1]:
        return False
    if x.shape[0] * x.shape[2] * x.shape[3] < min(_FEWEST_PIXELS.values()) or min(x.shape[2:]) < 3:
        return False
    kernels = native.kernels(x)
    return kernels is not None and x.is_contiguous(memory_format=torch.channels_last) and kernels.supports_conv3x3(x, w)


def _are_plain(*tensors):
    return all(native.route(tensor) == 'eager' for tensor in tensors)


def convolve(x, w, kind):
    """Images [N, O, H', W'], channels last as x [N, I, H, W] is, by w [O, I, 3, 3] of any strides.

    Only for what `kind_of_conv2d` or `kind_of_conv_transpose2d` has named. Differentiable any number of times.
    """
    height, width = x.shape[2:]
    size = {
        'keep': (height, width),
        'halve': ((height - 1) // 2, (width - 1) // 2),
        'twice': (2 * height + 1, 2 * width + 1),
    }[kind]
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        return _apply(_Convolve, x, w, kind, size, False)
    return _convolution(x, w, kind, size, False)


class _Convolve(torch.autograd.Function):
    """The linear map of `kind` with `size` = (H', W'), its weights rotated by 180 degrees or not."""

    @staticmethod
    def by_pytorch(*args):
        return _convolution_by_pytorch(*args)

    @staticmethod
    def forward(ctx, x, w, kind, size, rotated):
        ctx.save_for_backward(x, w)
        ctx.options = kind, rotated
        return _convolution(x, w, kind, size, rotated)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        kind, rotated = ctx.options
        dx = _adjoint(dy, w, kind, x.shape[2:], rotated) if _is_wanted(ctx, 0) else None
        dw = _apply(_WeightGradient, x, dy, kind, rotated) if _is_wanted(ctx, 1) else None
        return dx, dw, None, None, None


class _WeightGradient(torch.autograd.Function):
    """[O, I, 3, 3] from x [N, I, H, W] and dy [N, O, H', W']."""

    @staticmethod
    def by_pytorch(*args):
        return _weight_gradient_by_pytorch(*args)

    @staticmethod
    def forward(ctx, x, dy, kind, rotated):
        ctx.save_for_backward(x, dy)
        ctx.options = kind, rotated
        return _weight_gradient(x, dy, kind, rotated)

    @staticmethod
    def backward(ctx, ddw):
        x, dy = ctx.saved_tensors
        kind, rotated = ctx.options
        dx = _adjoint(dy, ddw, kind, x.shape[2:], rotated) if _is_wanted(ctx, 0) else None
        ddy = _apply(_Convolve, x, ddw, kind, dy.shape[2:], rotated) if _is_wanted(ctx, 1) else None
        return dx, ddy, None, None


def _apply(function, first, second, *options):
    """Apply a function of two tensors, in such a way that `_is_wanted` can tell: of leaves autograd does not.

    Where a backward pass is transformed itself (batched gradients), PyTorch's operators take over.
    """
    if not _are_plain(first, second):
        return function.by_pytorch(first, second, *options)
    return function.apply(
        *(tensor.view_as(tensor) if tensor.is_leaf and tensor.requires_grad else tensor for tensor in (first, second)),
        *options,
    )


def _is_wanted(ctx, index):
    """Whether the backward pass under way needs the gradient in an input.

    `needs_input_grad` tells what some pass may need: torch.autograd.grad(y, x) does not ask for the weights' gradient.
    """
    return ctx.needs_input_grad[index] and torch._C._will_engine_execute_node(ctx.next_functions[index][0])


def _adjoint(dy, w, kind, size, rotated):
    return _apply(_Convolve, dy, w.transpose(0, 1), _ADJOINT[kind], size, rotated != (kind == 'keep'))


# ----------------------------------------------------------------------------------------------------------------
# By kernels or by PyTorch, whichever is faster.


def _convolution(x, w, kind, size, rotated):
    x, w = x.resolve_neg(), w.resolve_neg()
    height, width = x.shape[2:] if kind == 'twice' else size
    if x.shape[0] * height * width >= _FEWEST_PIXELS[kind]:
        return native.kernels(x).conv3x3(x, w, kind, size, rotated)
    return _convolution_by_pytorch(x, w, kind, size, rotated)


def _convolution_by_pytorch(x, w, kind, size, rotated):
    if kind == 'twice':
        extra = [big - (2 * small + 1) for big, small in zip(size, x.shape[2:])]
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=2, output_padding=extra)
    w = w.flip([2, 3]) if rotated else w
    return F.conv2d(x, w, padding=1) if kind == 'keep' else F.conv2d(x, w, stride=2)


def _weight_gradient(x, dy, kind, rotated):
    if kind == 'twice':  # The roles of the images change.
        return _weight_gradient(dy, x, 'halve', rotated).transpose(0, 1)
    x, dy = x.resolve_neg(), dy.resolve_neg()
    if dy.shape[0] * dy.shape[2] * dy.shape[3] >= _FEWEST_PIXELS_FOR_WEIGHTS[kind]:
        return native.kernels(x).conv3x3_weight_gradient(x, dy, kind, rotated)
    return _weight_gradient_by_pytorch(x, dy, kind, rotated)


def _weight_gradient_by_pytorch(x, dy, kind, rotated):
    if kind == 'twice':
        return _weight_gradient_by_pytorch(dy, x, 'halve', rotated).transpose(0, 1)
    stride, padding = (1, 1) if kind == 'keep' else (2, 0)
    w = x.new_empty([dy.shape[1], x.shape[1], 3, 3])  # Only its shape counts.
    dw = torch.ops.aten.convolution_backward(
        dy, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    return dw.flip([2, 3]) if rotated else dw
