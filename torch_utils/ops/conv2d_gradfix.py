"""2-D convolutions with the signatures of `torch.nn.functional`, under the name that network pickles import.

Older versions of PyTorch computed the gradient of the weights even if only the gradient of the images was needed (as
for R1 and path length regularization), and their second derivatives were slow. Current versions compute only what
`torch.autograd.grad(outputs, inputs)` requests, and differentiate convolutions twice by means of other convolutions,
so there is nothing left to fix. The remaining purpose is speed: on the CPU, 3×3 convolutions use native kernels
(`conv3x3`) if these are faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import conv3x3
from torch_utils.ops.modulated_conv2d import modulated_conv2d as modulated_conv2d  # networks look it up in this module

enabled = True  # Set by other codebases; has no effect.


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Compute `torch.nn.functional.conv2d` of x [N, I, H, W] with weight [O, I / groups, kh, kw]."""
    if bias is None and groups == 1 and _pair(dilation) == (1, 1):
        margin = 1 if _pair(padding) == (2, 2) else 0  # what the kernels do not pad themselves
        inner = (1, 1) if margin else _pair(padding)
        kind = conv3x3.kind_of_conv2d(input, weight, _pair(stride), inner)
        if kind is not None:
            return conv3x3.convolve(F.pad(input, [margin] * 4) if margin else input, weight, kind)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Compute `torch.nn.functional.conv_transpose2d` of x [N, I, H, W] with weight [I, O / groups, kh, kw]."""
    if bias is None and groups == 1 and (_pair(output_padding), _pair(dilation)) == ((0, 0), (1, 1)):
        kind = conv3x3.kind_of_conv_transpose2d(input, weight, _pair(stride), _pair(padding))
        if kind is not None:
            return conv3x3.convolve(input, weight.transpose(0, 1), kind)
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _pair(value: Any) -> Any:
    """Return an integer, or a sequence of one or two, as (along y, along x). PyTorch judges all other values."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, (tuple, list)):
        return tuple(value) * 2 if len(value) == 1 else tuple(value)
    return value


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Mark a region that needs the gradients of activations only. Has no effect.

    With `torch.autograd.grad(outputs, inputs=[images])`, autograd does not compute the gradients of weights, so this
    context manager only documents the intention.
    """
    yield
