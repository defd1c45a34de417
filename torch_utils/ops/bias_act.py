"""Bias, activation, gain and clamp as one operator: y = clamp(gain * act(x + b)).

Read `_textbook` for the meaning. `_piecewise_linear` computes the activations that StyleGAN2 really uses (linear,
relu, lrelu) in fewer passes over memory and keeps one tensor for the backward pass where the textbook keeps three.
A native kernel takes its place in `bias_act`, before these.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from torch_utils.ops.arguments import check_impl


class Activation(NamedTuple):
    func: Callable  # (x, alpha) -> y, elementwise
    def_alpha: float  # the function's own parameter, where it has one
    def_gain: float  # keeps the variance of a unit Gaussian roughly as it was (He et al., arXiv 1502.01852)


activation_funcs = {
    'linear': Activation(lambda x, alpha: x, def_alpha=0, def_gain=1),
    'relu': Activation(lambda x, alpha: F.relu(x), def_alpha=0, def_gain=math.sqrt(2)),
    'lrelu': Activation(F.leaky_relu, def_alpha=0.2, def_gain=math.sqrt(2)),
    'tanh': Activation(lambda x, alpha: torch.tanh(x), def_alpha=0, def_gain=1),
    'sigmoid': Activation(lambda x, alpha: torch.sigmoid(x), def_alpha=0, def_gain=1),
    'elu': Activation(lambda x, alpha: F.elu(x), def_alpha=0, def_gain=1),
    'selu': Activation(lambda x, alpha: F.selu(x), def_alpha=0, def_gain=1),
    'softplus': Activation(lambda x, alpha: F.softplus(x), def_alpha=0, def_gain=1),
    'swish': Activation(lambda x, alpha: torch.sigmoid(x) * x, def_alpha=0, def_gain=math.sqrt(2)),
}


def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'):
    """Add a bias, apply an activation function, scale, and limit the magnitude.

    Args:
        x: floating-point tensor of any shape.
        b: bias of shape [x.shape[dim]], or None.
        dim: the dimension of x that the bias belongs to.
        act: a name in `activation_funcs`.
        alpha: slope of lrelu for x < 0 (other functions have none); None: `def_alpha`.
        gain: factor after the activation; None: `def_gain`.
        clamp: largest magnitude of the result; None: no limit.
        impl: 'cuda', the fastest that is available, or 'ref', plain PyTorch.

    Returns: a tensor of x's shape, type and memory format.
    """
    check_impl('bias_act', impl)
    if act not in activation_funcs:
        raise ValueError(f'bias_act: act={act!r} is unknown; choose one of {", ".join(activation_funcs)}')
    if clamp is not None and not clamp >= 0:
        raise ValueError(f'bias_act: clamp={clamp!r} must be a number of at least 0, or None for no limit')
    if b is not None:
        b = _bias_in_shape(b, x, dim)
    alpha = float(activation_funcs[act].def_alpha if alpha is None else alpha)
    gain = float(activation_funcs[act].def_gain if gain is None else gain)

    if impl == 'cuda' and gain > 0 and act in ('linear', 'relu', 'lrelu'):
        slope = {'linear': 1.0, 'relu': 0.0, 'lrelu': alpha}[act]
        if slope >= 0:
            return _piecewise_linear(x, b, slope, gain, clamp)
    return _textbook(x, b, activation_funcs[act].func, alpha, gain, clamp)


def _bias_in_shape(b, x, dim):
    """The bias with as many dimensions as x, and of x's type."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f'bias_act: dim={dim} is outside of x, whose shape is {list(x.shape)}')
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f'bias_act: b must have the shape [{x.shape[dim]}], the size of x {list(x.shape)} in '
                         f'dimension {dim}, but has the shape {list(b.shape)}')
    shape = [1] * x.ndim
    shape[dim] = -1
    return b.reshape(shape).to(x.dtype)


def _textbook(x, b, func, alpha, gain, clamp):
    y = x if b is None else x + b
    y = func(y, alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y


# ----------------------------------------------------------------------------------------------------------------
# Piecewise linear activations. gain * lrelu(x + b) = lrelu(gain * x + gain * b) for gain > 0, so that bias and gain
# take one pass, and the sign of the result tells which branch was taken, so that the result is all there is to save.


def _piecewise_linear(x, b, slope, gain, clamp):
    if slope == 1:
        y = _scale_and_shift(x, b, gain)
        return y if clamp is None else y.clamp(-clamp, clamp)
    return _LeakyBiasAct.apply(x, b, slope, gain, clamp)


def _scale_and_shift(x, b, gain):
    """gain * (x + b); x itself where there is nothing to do."""
    if b is not None:
        return torch.add(b * gain, x, alpha=gain) if gain != 1 else x + b
    return x * gain if gain != 1 else x


class _LeakyBiasAct(torch.autograd.Function):
    """clamp(gain * lrelu(x + b)), in place on one new tensor."""

    @staticmethod
    def forward(ctx, x, b, slope, gain, clamp):
        y = _scale_and_shift(x, b, gain)
        if y is x:
            y = x.clone()
        y = F.relu_(y) if slope == 0 else F.leaky_relu_(y, slope)
        if clamp is not None:
            y.clamp_(-clamp, clamp)
        ctx.save_for_backward(y)
        ctx.constants = slope, gain, clamp
        ctx.bias_shape = None if b is None else b.shape
        return y

    @staticmethod
    def backward(ctx, dy):
        y, = ctx.saved_tensors
        dx = _LeakySlope.apply(dy, y, *ctx.constants)
        db = dx.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        return dx, db, None, None, None


class _LeakySlope(torch.autograd.Function):
    """dy times the slope of the branch that y came from. Linear in dy, constant in y, so it is its own derivative."""

    @staticmethod
    def forward(ctx, dy, y, slope, gain, clamp):
        if slope == 0:
            dx = torch.ops.aten.threshold_backward(dy, y, 0)
        else:
            dx = torch.ops.aten.leaky_relu_backward(dy, y, slope, True)
        if gain != 1:
            dx *= gain
        if clamp is not None:
            dx = torch.ops.aten.hardtanh_backward(dx, y, -clamp, clamp)
        ctx.save_for_backward(y)
        ctx.constants = slope, gain, clamp
        return dx

    @staticmethod
    def backward(ctx, d_dx):
        y, = ctx.saved_tensors
        return _LeakySlope.apply(d_dx, y, *ctx.constants), None, None, None, None
