"""3×3 convolutions, their transposes and their gradients, by kernels with fewer multiplications than the definition.

There are three kinds, each a linear map of images x [N, I, H, W] with weights w [O, I, 3, 3]:

| kind | y | adjoint with respect to x |
|---|---|---|
| 'keep' | [N, O, H, W], `conv2d` with padding 1 | 'keep', weights rotated by 180 degrees |
| 'halve' | [N, O, (H - 1) // 2, (W - 1) // 2], `conv2d` with stride 2 | 'twice' |
| 'twice' | [N, O, 2 H + 1, 2 W + 1], or one more row or column of zeros: `conv_transpose2d` with stride 2 | 'halve' |

The gradient of the images is therefore again a convolution, and the gradient of the weights is bilinear in x and dy. So
`_Convolve` and `_WeightGradient` differentiate each other, any number of times.

The kernels (`cpu_winograd.h`) are about as accurate as PyTorch's own convolutions. Non-finite values appear at the same
positions, but a NaN may take the place of an infinity.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import native
from torch_utils.ops.arguments import CHANNEL_MULTIPLE

Kind = Literal['keep', 'halve', 'twice']

_ADJOINT: dict[Kind, Kind] = {'keep': 'keep', 'halve': 'twice', 'twice': 'halve'}
_KINDS_OF_CONV2D: dict[Any, Kind] = {((1, 1), (1, 1)): 'keep', ((2, 2), (0, 0)): 'halve'}  # by stride and padding

# Pixels of the smaller of x and y from which the kernels are faster than PyTorch.
_MIN_PIXELS = {'keep': 16, 'halve': 16, 'twice': 16}
_MIN_PIXELS_FOR_WEIGHT_GRADIENT = {'keep': 128, 'halve': 128}
_MAX_WASTE = 1.4  # Channels are padded for the kernels if that multiplies the work by no more than this.


def kind_of_conv2d(x: Tensor, w: Tensor, stride: Any, padding: Any) -> Kind | None:
    """Return the kind of `conv2d` of x with w [O, I, kh, kw] if `convolve` should compute it, else None."""
    kind = _KINDS_OF_CONV2D.get((stride, padding))
    return kind if kind is not None and _is_supported_format(x) and is_supported(x, w) else None


def kind_of_conv_transpose2d(x: Tensor, w: Tensor, stride: Any, padding: Any) -> Kind | None:
    """Return the kind of `conv_transpose2d` of x with w [I, O, kh, kw] if `convolve` should compute it, else None."""
    if (stride, padding) != ((2, 2), (0, 0)) or not _is_supported_format(x):
        return None
    return 'twice' if is_supported(x, w, axis_in=0) else None


def is_supported(x: Tensor, w: Tensor, axis_in: int = 1) -> bool:
    """Return whether `convolve` computes a convolution of images x, in channels-last format, faster than PyTorch.

    Args:
        x: Images [N, I, H, W] of any format.
        w: Weights, whose axis `axis_in` is I.
        axis_in: 1 for `conv2d`, 0 for `conv_transpose2d`.
    """
    # Traced and compiled calls are excluded first, because the other conditions depend on sizes.
    if not _are_eager(x, w) or x.device.type != 'cpu' or w.device != x.device or torch.is_autocast_enabled('cpu'):
        return False
    if x.ndim != 4 or w.ndim != 4 or w.shape[2:] != (3, 3) or w.shape[axis_in] != x.shape[1]:
        return False
    if x.shape[0] * x.shape[2] * x.shape[3] < min(_MIN_PIXELS.values()) or min(x.shape[2:]) < 3:
        return False
    kernels = native.kernels(x)
    if kernels is None or _waste(*w.shape[:2]) > _MAX_WASTE:
        return False
    return kernels.supports_conv3x3(x, w, padded=True)


def _is_supported_format(x: Tensor) -> bool:
    return _are_eager(x) and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _waste(*channels: int) -> float:
    """Return the factor by which padding the channels multiplies the work."""
    return math.prod(-(-number // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE / max(number, 1) for number in channels)


def _are_eager(*tensors: Tensor) -> bool:
    return all(native.route(tensor) == 'eager' for tensor in tensors)


def convolve(x: Tensor, w: Tensor, kind: Kind) -> Tensor:
    """Convolve channels-last images. Differentiable any number of times.

    Args:
        x: Images [N, I, H, W].
        w: Weights [O, I, 3, 3] of any strides.
        kind: What `kind_of_conv2d` or `kind_of_conv_transpose2d` returned for these tensors.

    Returns:
        Images [N, O, H', W'], channels last.
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


def input_gradient(dy: Tensor, w: Tensor, kind: Kind, size: tuple[int, int]) -> Tensor:
    """Return the gradient of `convolve` with respect to x of size (H, W). Differentiable any number of times."""
    return _adjoint(dy, w, kind, size, False)


def weight_gradient(x: Tensor, dy: Tensor, kind: Kind) -> Tensor:
    """Return the gradient of `convolve` with respect to w. Differentiable any number of times."""
    return _apply(_WeightGradient, x, dy, kind, False)


class _Convolve(torch.autograd.Function):
    """The linear map `kind` with output size `size` = (H', W'); `rotated`: rotate the weights by 180 degrees."""

    @staticmethod
    def by_pytorch(*args: Any) -> Tensor:
        return _convolution_by_pytorch(*args)

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, kind: Kind, size: tuple[int, int], rotated: bool) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.options = kind, rotated
        return _convolution(x, w, kind, size, rotated)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grad_outputs
        x, w = ctx.saved_tensors
        kind, rotated = ctx.options
        dx = _adjoint(dy, w, kind, x.shape[2:], rotated) if needs_gradient(ctx, 0) else None
        dw = _apply(_WeightGradient, x, dy, kind, rotated) if needs_gradient(ctx, 1) else None
        return dx, dw, None, None, None


class _WeightGradient(torch.autograd.Function):
    """The gradient of the weights, [O, I, 3, 3], from x [N, I, H, W] and dy [N, O, H', W']."""

    @staticmethod
    def by_pytorch(*args: Any) -> Tensor:
        return _weight_gradient_by_pytorch(*args)

    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, kind: Kind, rotated: bool) -> Tensor:
        ctx.save_for_backward(x, dy)
        ctx.options = kind, rotated
        return _weight_gradient(x, dy, kind, rotated)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (ddw,) = grad_outputs
        x, dy = ctx.saved_tensors
        kind, rotated = ctx.options
        dx = _adjoint(dy, ddw, kind, x.shape[2:], rotated) if needs_gradient(ctx, 0) else None
        ddy = _apply(_Convolve, x, ddw, kind, dy.shape[2:], rotated) if needs_gradient(ctx, 1) else None
        return dx, ddy, None, None


def _apply(function: Any, first: Tensor, second: Tensor, *options: Any) -> Tensor:
    """Apply `_Convolve` or `_WeightGradient`, or PyTorch's operators if a backward pass is itself transformed.

    Leaves are replaced by views, because `needs_gradient` cannot query the gradient of a leaf.
    """
    if not _are_eager(first, second):
        return function.by_pytorch(first, second, *options)
    return function.apply(
        *(tensor.view_as(tensor) if tensor.is_leaf and tensor.requires_grad else tensor for tensor in (first, second)),
        *options,
    )


def needs_gradient(ctx: Any, index: int) -> bool:
    """Return whether the current backward pass needs the gradient of an input.

    `ctx.needs_input_grad` says whether any pass may need it, but torch.autograd.grad(y, x) does not need the gradient
    of the weights.
    """
    will_execute: Any = getattr(torch._C, '_will_engine_execute_node', None)  # private, and not in the stubs of 2.4
    return ctx.needs_input_grad[index] and (will_execute is None or will_execute(ctx.next_functions[index][0]))


def _adjoint(dy: Tensor, w: Tensor, kind: Kind, size: tuple[int, int], rotated: bool) -> Tensor:
    return _apply(_Convolve, dy, w.transpose(0, 1), _ADJOINT[kind], size, rotated != (kind == 'keep'))


# ---------------------------------------------------------------------------------------------------------------------
# Kernels or PyTorch, whichever is faster


def _convolution(x: Tensor, w: Tensor, kind: Kind, size: tuple[int, int], rotated: bool) -> Tensor:
    x, w = x.resolve_neg(), w.resolve_neg()
    height, width = x.shape[2:] if kind == 'twice' else size
    kernels = native.kernels(x)
    if kernels is not None and x.shape[0] * height * width >= _MIN_PIXELS[kind]:
        y = kernels.conv3x3(_pad_channels(x, 1), _pad_channels(w, 0, 1), kind, size, rotated)
        return y[:, : w.shape[0]]
    return _convolution_by_pytorch(x, w, kind, size, rotated)


def _pad_channels(tensor: Tensor, *dims: int) -> Tensor:
    """Pad the channel dimensions with zeros, up to the next multiple of `CHANNEL_MULTIPLE`."""
    for dim in dims:
        missing = -tensor.shape[dim] % CHANNEL_MULTIPLE
        if missing > 0:
            tensor = F.pad(tensor, [0, 0] * (tensor.ndim - 1 - dim) + [0, missing])
    return tensor


def _convolution_by_pytorch(x: Tensor, w: Tensor, kind: Kind, size: tuple[int, int], rotated: bool) -> Tensor:
    if kind == 'twice':
        extra = [large - (2 * small + 1) for large, small in zip(size, x.shape[2:])]
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=2, output_padding=extra)
    w = w.flip([2, 3]) if rotated else w
    return F.conv2d(x, w, padding=1) if kind == 'keep' else F.conv2d(x, w, stride=2)


def _weight_gradient(x: Tensor, dy: Tensor, kind: Kind, rotated: bool) -> Tensor:
    if kind == 'twice':  # The transpose of 'halve', with the images exchanged.
        return _weight_gradient(dy, x, 'halve', rotated).transpose(0, 1)
    x, dy = x.resolve_neg(), dy.resolve_neg()
    kernels = native.kernels(x)
    if kernels is not None and dy.shape[0] * dy.shape[2] * dy.shape[3] >= _MIN_PIXELS_FOR_WEIGHT_GRADIENT[kind]:
        dw = kernels.conv3x3_weight_gradient(_pad_channels(x, 1), _pad_channels(dy, 1), kind, rotated)
        return dw[: dy.shape[1], : x.shape[1]]
    return _weight_gradient_by_pytorch(x, dy, kind, rotated)


def _weight_gradient_by_pytorch(x: Tensor, dy: Tensor, kind: Kind, rotated: bool) -> Tensor:
    if kind == 'twice':
        return _weight_gradient_by_pytorch(dy, x, 'halve', rotated).transpose(0, 1)
    stride, padding = (1, 1) if kind == 'keep' else (2, 0)
    w = x.new_empty([dy.shape[1], x.shape[1], 3, 3])  # Only the shape is used.
    dw = torch.ops.aten.convolution_backward(
        dy, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    return dw.flip([2, 3]) if rotated else dw
