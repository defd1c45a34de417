"""2-D convolutions with the call signatures of `torch.nn.functional`, under the name that pickles know.

There was a time when a convolution's backward pass computed the gradient of the weights even where nobody wanted it
(R1 and path-length regularisation ask only for the gradient in the images), and when its second derivative was slow.
Today's PyTorch computes what `torch.autograd.grad(outputs, inputs)` needs and nothing else, and differentiates
convolutions twice by other convolutions, so nothing is left here to repair. What is left is to be fast: on a CPU, 3×3
convolutions go to kernels of this project (`conv3x3`) where these pay.
"""

import contextlib

import torch.nn.functional as F

from torch_utils.ops import conv3x3

enabled = True  # Set by code from elsewhere; either value means the same.


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """`torch.nn.functional.conv2d`: x [N, I, H, W], weight [O, I / groups, kh, kw]."""
    if bias is None and groups == 1 and _pair(dilation) == (1, 1):
        kind = conv3x3.kind_of_conv2d(input, weight, _pair(stride), _pair(padding))
        if kind is not None:
            return conv3x3.convolve(input, weight, kind)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """`torch.nn.functional.conv_transpose2d`: x [N, I, H, W], weight [I, O / groups, kh, kw]."""
    if bias is None and groups == 1 and (_pair(output_padding), _pair(dilation)) == ((0, 0), (1, 1)):
        kind = conv3x3.kind_of_conv_transpose2d(input, weight, _pair(stride), _pair(padding))
        if kind is not None:
            return conv3x3.convolve(input, weight.transpose(0, 1), kind)
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _pair(value):
    """(along y, along x) of an integer or of a sequence of one or two; others, which PyTorch judges, as they are."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, (tuple, list)):
        return tuple(value) * 2 if len(value) == 1 else tuple(value)
    return value


@contextlib.contextmanager
def no_weight_gradients(disable=True):
    """Mark a region whose gradients are wanted in the activations only.

    Say so to autograd itself, `torch.autograd.grad(outputs, inputs=[images])`, and the gradients of the weights are
    not computed. That makes this manager a mark for the reader: it changes nothing.
    """
    yield
