"""Bias, activation, gain and clamp in one operator: y = clamp(gain * act(x + b)).

`_reference` is the definition. If there are kernels for a tensor (see `native`), they compute the result, its gradient
and its second derivative in one pass over memory each. Otherwise `_piecewise_linear` computes the activations that
StyleGAN2 uses (linear, relu, lrelu) in few passes. For these activations, both save one tensor for the backward pass;
the reference saves three.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, library

from torch_utils.ops import native
from torch_utils.ops.arguments import BiasActOptions, check_impl


class Activation(NamedTuple):
    """An activation function with its default parameters."""

    func: Callable[[Tensor, float], Tensor]  # (x, alpha) -> y, elementwise
    def_alpha: float  # parameter of the function; 0 if it has none
    def_gain: float  # approximately preserves the variance of a unit Gaussian (He et al., arXiv 1502.01852)


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

PIECEWISE_LINEAR = ('linear', 'relu', 'lrelu')  # Their second derivative is 0.
NOT_INVERTIBLE = ('swish',)  # Its derivatives cannot be computed from y, only from x.


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = 'linear',
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = 'cuda',
) -> Tensor:
    """Add a bias, apply an activation function, scale the result, and clamp it.

    Args:
        x: Floating-point tensor of any shape.
        b: Bias of shape [x.shape[dim]], or None.
        dim: Dimension of x to which the bias is added.
        act: A key of `activation_funcs`.
        alpha: Slope of lrelu for negative inputs; other functions ignore it. None for `def_alpha`.
        gain: Factor applied after the activation. None for `def_gain`.
        clamp: Largest magnitude of the result, or None for no limit.
        impl: 'cuda' for the fastest implementation available, 'ref' for plain PyTorch.

    Returns:
        Tensor with x's shape, type and memory format.

    Raises:
        ValueError: An argument is invalid, or the shape of the bias does not match x.
    """
    check_impl('bias_act', impl)
    if act not in activation_funcs:
        raise ValueError(f'bias_act: unknown act={act!r}; choose one of {", ".join(activation_funcs)}')
    if clamp is not None and not clamp >= 0:
        raise ValueError(f'bias_act: clamp={clamp!r} must be a number of at least 0, or None for no limit')
    if b is not None:
        dim = _check_bias(b, x, dim)
        b = b.to(x.dtype)
    options = BiasActOptions(
        dim,
        act,
        float(activation_funcs[act].def_alpha if alpha is None else alpha),
        float(activation_funcs[act].def_gain if gain is None else gain),
        None if clamp is None else float(clamp),
    )
    return _dispatch(x, b, options, impl)


def _check_bias(b: Tensor, x: Tensor, dim: int) -> int:
    """Raise ValueError unless the bias matches x; return `dim` as a non-negative number."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f'bias_act: dim={dim} is out of range for x of shape {list(x.shape)}')
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(
            f'bias_act: b must have the shape [{x.shape[dim]}], the size of x {list(x.shape)} in dimension {dim}, '
            f'got {list(b.shape)}'
        )
    return dim % x.ndim


def _dispatch(x: Tensor, b: Tensor | None, options: BiasActOptions, impl: str) -> Tensor:
    """Call the implementation that `native.route` chooses."""
    dim, act, _alpha, gain, clamp = options
    route = 'reference' if impl == 'ref' else native.route(x)
    if route == 'reference':
        return _reference(x, _broadcastable(b, x, dim), options)
    if route == 'custom_op':
        if act == 'linear' and clamp is None:
            return _scale_and_shift(x, _broadcastable(b, x, dim), gain)  # A single operator of PyTorch is as good.
        return torch.ops.ada_gan.bias_act(x, b, *options)
    if route == 'eager':
        kernels = _kernels(x, options)
        if kernels is not None:
            if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
                return _BiasAct.apply(x, b, *options)
            return kernels.bias_act(x, b, options)
    return _by_pytorch(x, b, options)


def _broadcastable(b: Tensor | None, x: Tensor, dim: int) -> Tensor | None:
    """Return the bias with as many dimensions as x."""
    if b is None:
        return None
    shape = [1] * x.ndim
    shape[dim] = -1
    return b.reshape(shape)


def _reference(x: Tensor, b: Tensor | None, options: BiasActOptions) -> Tensor:
    """The definition, step by step; `b` has as many dimensions as x."""
    _dim, act, alpha, gain, clamp = options
    y = x if b is None else x + b
    y = activation_funcs[act].func(y, alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y


def _by_pytorch(x: Tensor, b: Tensor | None, options: BiasActOptions) -> Tensor:
    """Compute `bias_act` with PyTorch's own operators, in as few passes as possible."""
    dim, act, alpha, gain, clamp = options
    b = _broadcastable(b, x, dim)
    if gain > 0 and act in PIECEWISE_LINEAR:
        slope = {'linear': 1.0, 'relu': 0.0, 'lrelu': alpha}[act]
        if slope >= 0:
            return _piecewise_linear(x, b, slope, gain, clamp)
    return _reference(x, b, options)


# ---------------------------------------------------------------------------------------------------------------------
# Piecewise linear activations
#
# gain * lrelu(x + b) = lrelu(gain * x + gain * b) for gain > 0, so bias and gain take a single pass. The sign of the
# result tells which branch was taken, so the result is the only tensor to save for the backward pass.


def _piecewise_linear(x: Tensor, b: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    if slope == 1:
        y = _scale_and_shift(x, b, gain)
        return y if clamp is None else y.clamp(-clamp, clamp)
    return _LeakyBiasAct.apply(x, b, slope, gain, clamp)


def _scale_and_shift(x: Tensor, b: Tensor | None, gain: float) -> Tensor:
    """Return gain * (x + b), or x itself if there is nothing to compute."""
    if b is not None:
        return torch.add(b * gain, x, alpha=gain) if gain != 1 else x + b
    return x * gain if gain != 1 else x


class _LeakyBiasAct(torch.autograd.Function):
    """clamp(gain * lrelu(x + b)), in place on a single new tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
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
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        dx = _LeakySlope.apply(*grad_outputs, y, *ctx.constants)
        db = dx.sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        return dx, db, None, None, None


class _LeakySlope(torch.autograd.Function):
    """dy times the slope at y. Linear in dy and piecewise constant in y, so it is its own derivative."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
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
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return _LeakySlope.apply(*grad_outputs, y, *ctx.constants), None, None, None, None


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
#
# In the formulas below, u = act(x + b) and y = clamp(gain * u); dx = dy * gain * u' where y is not clamped, else 0.
# This is linear in dy, and its derivative with respect to x is dy * gain * u''.
#
# Registered operators take numbers and strings, so `BiasActOptions` are passed as separate arguments (`*fields`).


def _kernels(x: Tensor, options: BiasActOptions) -> ModuleType | None:
    """Return the module of kernels for a call, or None."""
    _dim, act, alpha, gain, clamp = options
    if x.numel() == 0 or gain == 0 or alpha < 0 or (act == 'linear' and clamp is None):
        return None
    kernels = native.kernels(x)
    return kernels if kernels is not None and kernels.supports_bias_act(x, options) else None


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """Save the tensors that the backward pass reads, and x and b if second derivatives depend on them."""
    x, b, *fields = inputs
    ctx.options = options = BiasActOptions(*fields)
    inputs_to_save = (None, None) if options.act in PIECEWISE_LINEAR else (x, b)
    ctx.save_for_backward(*inputs_to_save, None if options.act in NOT_INVERTIBLE else output)


def _backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to x and b."""
    (dy,) = grad_outputs
    x, b, y = ctx.saved_tensors
    if not ctx.needs_input_grad[1]:
        return _gradient(dy, x, b, y, ctx.options), None, None, None, None, None, None
    dims = [axis for axis in range(dy.ndim) if axis != ctx.options.dim]
    if not torch.is_grad_enabled() and native.route(dy) == 'eager':
        kernels = native.kernels(dy)
        if kernels is not None and getattr(kernels, 'FUSED_BIAS_GRADIENT', False):
            dx, db = kernels.bias_act_grad(dy, x, b, y, ctx.options, bias_gradient=True)
            return dx, db, None, None, None, None, None
    dx = _gradient(dy, x, b, y, ctx.options)
    return dx, dx.sum(dims) if dims else dx, None, None, None, None, None


def _gradient(dy: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, options: BiasActOptions) -> Tensor:
    """Return dx, computed by an autograd function or by a registered operator."""
    if native.route(dy) == 'eager' and native.kernels(dy) is not None:
        return _BiasActGradient.apply(dy, x, b, y, *options)
    return torch.ops.ada_gan.bias_act_grad(dy, x, b, y, *options)


def _save_for_double_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dy, x, b, y, *fields = inputs
    ctx.options = BiasActOptions(*fields)
    ctx.save_for_backward(None if ctx.options.act in PIECEWISE_LINEAR else dy, x, b, y)


def _double_backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to dy, x and b."""
    (d_dx,) = grad_outputs
    dy, x, b, y = ctx.saved_tensors
    dim, act, *_ = ctx.options
    d_dy = _gradient(d_dx, x, b, y, ctx.options) if ctx.needs_input_grad[0] else None
    d_x = d_b = None
    if act not in PIECEWISE_LINEAR and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        d_x = _second_order_gradient(dy, d_dx, x, b, y, ctx.options)
        if ctx.needs_input_grad[2]:
            d_b = d_x.sum([axis for axis in range(d_x.ndim) if axis != dim])
    return d_dy, d_x, d_b, None, None, None, None, None, None


def _second_order_gradient(
    dy: Tensor, d_dx: Tensor, x: Tensor, b: Tensor | None, y: Tensor | None, options: BiasActOptions
) -> Tensor:
    """Return dy * d_dx * gain * u''."""
    if torch.is_grad_enabled():  # For a third derivative, differentiate the reference twice.
        z = x if x.requires_grad else x.detach().requires_grad_()
        out = _reference(z, _broadcastable(b, x, options.dim), options)
        (dx,) = torch.autograd.grad(out, z, dy, create_graph=True)
        return torch.autograd.grad(dx, z, d_dx, create_graph=True)[0]
    kernels = native.kernels(dy) if native.route(dy) == 'eager' else None
    if kernels is not None:
        return kernels.bias_act_grad2(dy, d_dx, x, b, y, options)
    return torch.ops.ada_gan.bias_act_grad2(dy, d_dx, x, b, y, *options)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor | None, *fields: Any) -> Tensor:
        kernels = native.kernels(x)
        assert kernels is not None
        y = kernels.bias_act(x, b, BiasActOptions(*fields))
        _save_for_backward(ctx, (x, b, *fields), y)
        return y

    backward = staticmethod(_backward)


class _BiasActGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, *inputs: Any) -> Tensor:
        x, b, y, *fields = inputs
        kernels = native.kernels(dy)
        assert kernels is not None
        dx = kernels.bias_act_grad(dy, x, b, y, BiasActOptions(*fields))
        _save_for_double_backward(ctx, (dy, *inputs), dx)
        return dx

    backward = staticmethod(_double_backward)


# ---------------------------------------------------------------------------------------------------------------------
# Registered operators
#
# torch.ops.ada_gan.bias_act etc., for torch.compile and torch.export. Without kernels, they use PyTorch's operators.

_FIELDS = 'int dim, str act, float alpha, float gain, float? clamp'


@library.custom_op('ada_gan::bias_act', mutates_args=(), schema=f'(Tensor x, Tensor? b, {_FIELDS}) -> Tensor')
def _bias_act_op(x: Tensor, b: Tensor | None, *fields: Any) -> Tensor:
    options = BiasActOptions(*fields)
    kernels = _kernels(x, options)
    if kernels is not None:
        return kernels.bias_act(x, b, options)
    y = _by_pytorch(x, b, options)
    return y.clone() if y is x else y


@library.custom_op(
    'ada_gan::bias_act_grad',
    mutates_args=(),
    schema=f'(Tensor dy, Tensor? x, Tensor? b, Tensor? y, {_FIELDS}) -> Tensor',
)
def _bias_act_grad_op(dy: Tensor, x: Tensor | None, b: Tensor | None, y: Tensor | None, *fields: Any) -> Tensor:
    options = BiasActOptions(*fields)
    kernels = _kernels_for_derivatives(dy, options)
    if kernels is not None:
        return kernels.bias_act_grad(dy, x, b, y, options)
    z, u, y = _intermediates(x, b, y, options)
    return _zero_where_clamped(y, options.clamp, dy * options.gain * _SLOPES[options.act](z, u, options.alpha))


@library.custom_op(
    'ada_gan::bias_act_grad2',
    mutates_args=(),
    schema=f'(Tensor dy, Tensor d_dx, Tensor x, Tensor? b, Tensor? y, {_FIELDS}) -> Tensor',
)
def _bias_act_grad2_op(dy: Tensor, d_dx: Tensor, x: Tensor, b: Tensor | None, y: Tensor | None, *fields: Any) -> Tensor:
    options = BiasActOptions(*fields)
    kernels = _kernels_for_derivatives(dy, options)
    if kernels is not None:
        return kernels.bias_act_grad2(dy, d_dx, x, b, y, options)
    z, u, y = _intermediates(x, b, y, options)
    return _zero_where_clamped(y, options.clamp, dy * d_dx * options.gain * _CURVATURES[options.act](z, u))


def _kernels_for_derivatives(dy: Tensor, options: BiasActOptions) -> ModuleType | None:
    """Return the module of kernels, which also support the derivative of linear functions without a clamp."""
    return _kernels(dy, options._replace(clamp=0.0))


def _zero_where_clamped(y: Tensor, clamp: float | None, value: Tensor) -> Tensor:
    return value if clamp is None else torch.where(y.abs() < clamp, value, 0)


def _intermediates(
    x: Tensor | None, b: Tensor | None, y: Tensor | None, options: BiasActOptions
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return z = x + b (None if y is given), u = act(z), and y."""
    dim, act, alpha, gain, _clamp = options
    z = None
    if y is None:
        assert x is not None
        bias = _broadcastable(b, x, dim)
        z = x if bias is None else x + bias
        y = activation_funcs[act].func(z, alpha) * gain
    return z, y / gain if gain != 0 else y, y


_SELU_SCALE, _SELU_LIMIT = 1.0507009873554805, 1.7580993408473766  # selu(z) -> -_SELU_LIMIT for z -> -infinity

# du / dz as functions of (z, u, alpha).
_SLOPES: dict[str, Callable[..., Tensor]] = {
    'linear': lambda z, u, alpha: torch.ones_like(u),
    'relu': lambda z, u, alpha: (u > 0).to(u.dtype),
    'lrelu': lambda z, u, alpha: torch.where(u > 0, 1.0, alpha).to(u.dtype),
    'tanh': lambda z, u, alpha: 1 - u * u,
    'sigmoid': lambda z, u, alpha: u * (1 - u),
    'elu': lambda z, u, alpha: torch.where(u <= 0, u + 1, 1),
    'selu': lambda z, u, alpha: torch.where(u <= 0, u + _SELU_LIMIT, _SELU_SCALE),
    'softplus': lambda z, u, alpha: -torch.expm1(-u),
    'swish': lambda z, u, alpha: torch.sigmoid(z) * (1 + z - u),
}

# d²u / dz² as functions of (z, u), for the activations whose second derivative is not 0.
_CURVATURES: dict[str, Callable[..., Tensor]] = {
    'tanh': lambda z, u: -2 * u * (1 - u * u),
    'sigmoid': lambda z, u: u * (1 - u) * (1 - 2 * u),
    'elu': lambda z, u: torch.where(u <= 0, u + 1, 0),
    'selu': lambda z, u: torch.where(u <= 0, u + _SELU_LIMIT, 0),
    'softplus': lambda z, u: -torch.exp(-u) * torch.expm1(-u),
    'swish': lambda z, u: torch.sigmoid(z) * torch.sigmoid(-z) * (2 + z * (1 - 2 * torch.sigmoid(z))),
}

_bias_act_op.register_fake(lambda x, b, *constants: torch.empty_like(x))
_bias_act_grad_op.register_fake(lambda dy, x, b, y, *constants: torch.empty_like(x if y is None else y))
_bias_act_grad2_op.register_fake(lambda dy, d_dx, x, *others: torch.empty_like(x))
_bias_act_op.register_autograd(_backward, setup_context=_save_for_backward)
_bias_act_grad_op.register_autograd(_double_backward, setup_context=_save_for_double_backward)
