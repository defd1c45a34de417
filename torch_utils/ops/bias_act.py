"""Bias, activation, gain and clamp as one operator: y = clamp(gain * act(x + b)).

Read `_textbook` for the meaning. Where there are kernels for a tensor (see `native`), they do everything in one pass
over memory: forward, backward and for the second derivative. Elsewhere `_piecewise_linear` computes the activations
that StyleGAN2 really uses (linear, relu, lrelu) in few passes. Both keep one tensor for the backward pass of those
activations where the textbook keeps three.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import library

from torch_utils.ops import native
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

STRAIGHT = ('linear', 'relu', 'lrelu')  # but for a corner: their second derivative is 0
READS_INPUT = ('swish',)  # whose derivatives need x, as y does not tell it


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
        dim = _check_bias(b, x, dim)
        b = b.to(x.dtype)
    alpha = float(activation_funcs[act].def_alpha if alpha is None else alpha)
    gain = float(activation_funcs[act].def_gain if gain is None else gain)
    clamp = None if clamp is None else float(clamp)

    route = 'textbook' if impl == 'ref' else native.route(x)
    if route == 'textbook':
        return _textbook(x, _in_shape(b, x, dim), activation_funcs[act].func, alpha, gain, clamp)
    if route == 'library':
        if act == 'linear' and clamp is None:
            return _scale_and_shift(x, _in_shape(b, x, dim), gain)  # One operator of PyTorch's is as good.
        return torch.ops.ada_gan.bias_act(x, b, dim, act, alpha, gain, clamp)
    if route == 'eager':
        kernels = _kernels(x, act, alpha, gain, clamp)
        if kernels is not None:
            if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
                return _BiasAct.apply(x, b, dim, act, alpha, gain, clamp)
            return kernels.bias_act(x, b, dim, act, alpha, gain, clamp)
    return _plain(x, b, dim, act, alpha, gain, clamp)


def _check_bias(b, x, dim):
    """Raise ValueError unless the bias fits; return `dim` counted from the front."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f'bias_act: dim={dim} is outside of x, whose shape is {list(x.shape)}')
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(
            f'bias_act: b must have the shape [{x.shape[dim]}], the size of x {list(x.shape)} in '
            f'dimension {dim}, but has the shape {list(b.shape)}'
        )
    return dim % x.ndim


def _in_shape(b, x, dim):
    """The bias with as many dimensions as x."""
    if b is None:
        return None
    shape = [1] * x.ndim
    shape[dim] = -1
    return b.reshape(shape)


def _textbook(x, b, func, alpha, gain, clamp):
    y = x if b is None else x + b
    y = func(y, alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y


def _plain(x, b, dim, act, alpha, gain, clamp):
    """With PyTorch's own operators, in as few passes as they allow."""
    b = _in_shape(b, x, dim)
    if gain > 0 and act in STRAIGHT:
        slope = {'linear': 1.0, 'relu': 0.0, 'lrelu': alpha}[act]
        if slope >= 0:
            return _piecewise_linear(x, b, slope, gain, clamp)
    return _textbook(x, b, activation_funcs[act].func, alpha, gain, clamp)


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
        (y,) = ctx.saved_tensors
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
        (y,) = ctx.saved_tensors
        return _LeakySlope.apply(d_dx, y, *ctx.constants), None, None, None, None


# ----------------------------------------------------------------------------------------------------------------
# Kernels. In the formulas below, u = act(x + b) and y = clamp(gain * u); dx = dy * gain * u' where y is not clamped,
# else 0. That is linear in dy, and its derivative in x is dy * gain * u''.


def _kernels(x, act, alpha, gain, clamp):
    """The module of kernels for a call, or None."""
    if x.numel() == 0 or gain == 0 or alpha < 0 or (act == 'linear' and clamp is None):
        return None
    kernels = native.kernels(x)
    return kernels if kernels is not None and kernels.supports_bias_act(x, act, alpha, gain) else None


def _keep(ctx, inputs, output):
    """Save what the backward pass reads, and x and b as well where second derivatives have to reach them."""
    x, b, *ctx.constants = inputs
    _dim, act, *_ = ctx.constants
    ctx.save_for_backward(*(None, None) if act in STRAIGHT else (x, b), None if act in READS_INPUT else output)


def _way_back(ctx, dy):
    """Gradients in x and b."""
    x, b, y = ctx.saved_tensors
    dim = ctx.constants[0]
    if not ctx.needs_input_grad[1]:
        return _gradient(dy, x, b, y, *ctx.constants), None, None, None, None, None, None
    dims = [axis for axis in range(dy.ndim) if axis != dim]
    if not torch.is_grad_enabled() and native.route(dy) == 'eager':
        kernels = native.kernels(dy)
        if kernels is not None and getattr(kernels, 'FUSED_BIAS_GRADIENT', False):
            dx, db = kernels.bias_act_grad(dy, x, b, y, *ctx.constants, bias_gradient=True)
            return dx, db, None, None, None, None, None
    dx = _gradient(dy, x, b, y, *ctx.constants)
    return dx, dx.sum(dims) if dims else dx, None, None, None, None, None


def _gradient(dy, x, b, y, *constants):
    """dx, by way of an autograd function or of a registered operator."""
    if native.route(dy) == 'eager' and native.kernels(dy) is not None:
        return _BiasActGradient.apply(dy, x, b, y, *constants)
    return torch.ops.ada_gan.bias_act_grad(dy, x, b, y, *constants)


def _keep_for_second(ctx, inputs, output):
    dy, x, b, y, *ctx.constants = inputs
    ctx.save_for_backward(None if ctx.constants[1] in STRAIGHT else dy, x, b, y)


def _second_way_back(ctx, d_dx):
    """Gradients in dy, x and b."""
    dy, x, b, y = ctx.saved_tensors
    dim, act, *_ = ctx.constants
    d_dy = _gradient(d_dx, x, b, y, *ctx.constants) if ctx.needs_input_grad[0] else None
    d_x = d_b = None
    if act not in STRAIGHT and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        d_x = _curvature(dy, d_dx, x, b, y, *ctx.constants)
        if ctx.needs_input_grad[2]:
            d_b = d_x.sum([axis for axis in range(d_x.ndim) if axis != dim])
    return d_dy, d_x, d_b, None, None, None, None, None, None


def _curvature(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp):
    if torch.is_grad_enabled():  # A third derivative is wanted, so the textbook is differentiated twice.
        z = x if x.requires_grad else x.detach().requires_grad_()
        out = _textbook(z, _in_shape(b, x, dim), activation_funcs[act].func, alpha, gain, clamp)
        (dx,) = torch.autograd.grad(out, z, dy, create_graph=True)
        return torch.autograd.grad(dx, z, d_dx, create_graph=True)[0]
    if native.route(dy) == 'eager' and native.kernels(dy) is not None:
        return native.kernels(dy).bias_act_grad2(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp)
    return torch.ops.ada_gan.bias_act_grad2(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, *constants):
        y = native.kernels(x).bias_act(x, b, *constants)
        _keep(ctx, (x, b, *constants), y)
        return y

    backward = staticmethod(_way_back)


class _BiasActGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dy, x, b, y, *constants):
        dx = native.kernels(dy).bias_act_grad(dy, x, b, y, *constants)
        _keep_for_second(ctx, (dy, x, b, y, *constants), dx)
        return dx

    backward = staticmethod(_second_way_back)


# ----------------------------------------------------------------------------------------------------------------
# The same as operators of torch.ops, for torch.compile and torch.export. Where no kernels run they fall back.

_CONSTANTS = 'int dim, str act, float alpha, float gain, float? clamp'


@library.custom_op('ada_gan::bias_act', mutates_args=(), schema=f'(Tensor x, Tensor? b, {_CONSTANTS}) -> Tensor')
def _bias_act_op(x, b, dim, act, alpha, gain, clamp):
    kernels = _kernels(x, act, alpha, gain, clamp)
    if kernels is not None:
        return kernels.bias_act(x, b, dim, act, alpha, gain, clamp)
    y = _plain(x, b, dim, act, alpha, gain, clamp)
    return y.clone() if y is x else y


@library.custom_op(
    'ada_gan::bias_act_grad',
    mutates_args=(),
    schema=f'(Tensor dy, Tensor? x, Tensor? b, Tensor? y, {_CONSTANTS}) -> Tensor',
)
def _bias_act_grad_op(dy, x, b, y, dim, act, alpha, gain, clamp):
    kernels = _kernels(dy, act, alpha, gain, 0.0)
    if kernels is not None:
        return kernels.bias_act_grad(dy, x, b, y, dim, act, alpha, gain, clamp)
    return _plain_gradient(dy, x, b, y, dim, act, alpha, gain, clamp)


@library.custom_op(
    'ada_gan::bias_act_grad2',
    mutates_args=(),
    schema=f'(Tensor dy, Tensor d_dx, Tensor x, Tensor? b, Tensor? y, {_CONSTANTS}) -> Tensor',
)
def _bias_act_grad2_op(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp):
    kernels = _kernels(dy, act, alpha, gain, 0.0)
    if kernels is not None:
        return kernels.bias_act_grad2(dy, d_dx, x, b, y, dim, act, alpha, gain, clamp)
    z, u, y, slope, curvature = _plain_derivatives(x, b, y, dim, act, alpha, gain)
    return _where_inside(y, clamp, dy * d_dx * gain * curvature(z, u))


def _plain_gradient(dy, x, b, y, dim, act, alpha, gain, clamp):
    z, u, y, slope, curvature = _plain_derivatives(x, b, y, dim, act, alpha, gain)
    return _where_inside(y, clamp, dy * gain * slope(z, u))


def _where_inside(y, clamp, value):
    return value if clamp is None else torch.where(y.abs() < clamp, value, 0)


def _plain_derivatives(x, b, y, dim, act, alpha, gain):
    """z = x + b (None where the formulas need it not), u = act(z), y, and functions of z and u: u', u''."""
    z = None
    if y is None:
        z = x if b is None else x + _in_shape(b, x, dim)
        y = activation_funcs[act].func(z, alpha) * gain
    u = y / gain if gain != 0 else y
    scale, at_minus_infinity = 1.0507009873554805, 1.7580993408473766  # of selu
    return (
        z,
        u,
        y,
        *{
            'linear': (lambda z, u: torch.ones_like(u), None),
            'relu': (lambda z, u: (u > 0).to(u.dtype), None),
            'lrelu': (lambda z, u: torch.where(u > 0, 1.0, alpha).to(u.dtype), None),
            'tanh': (lambda z, u: 1 - u * u, lambda z, u: -2 * u * (1 - u * u)),
            'sigmoid': (lambda z, u: u * (1 - u), lambda z, u: u * (1 - u) * (1 - 2 * u)),
            'elu': (lambda z, u: torch.where(u <= 0, u + 1, 1), lambda z, u: torch.where(u <= 0, u + 1, 0)),
            'selu': (
                lambda z, u: torch.where(u <= 0, u + at_minus_infinity, scale),
                lambda z, u: torch.where(u <= 0, u + at_minus_infinity, 0),
            ),
            'softplus': (lambda z, u: -torch.expm1(-u), lambda z, u: -torch.exp(-u) * torch.expm1(-u)),
            'swish': (
                lambda z, u: torch.sigmoid(z) * (1 + z - u),
                lambda z, u: torch.sigmoid(z) * torch.sigmoid(-z) * (2 + z * (1 - 2 * torch.sigmoid(z))),
            ),
        }[act],
    )


_bias_act_op.register_fake(lambda x, b, *constants: torch.empty_like(x))
_bias_act_grad_op.register_fake(lambda dy, x, b, y, *constants: torch.empty_like(x if y is None else y))
_bias_act_grad2_op.register_fake(lambda dy, d_dx, x, *others: torch.empty_like(x))
_bias_act_op.register_autograd(_way_back, setup_context=_keep)
_bias_act_grad_op.register_autograd(_second_way_back, setup_context=_keep_for_second)
