"""Arguments that the operators share: the implementation, factors per axis, padding per side, activations."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

IMPLEMENTATIONS = ('cuda', 'ref')

_ACTIVATIONS = ('linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish')
ACTIVATION_CODES = {name: code for code, name in enumerate(_ACTIVATIONS)}  # as in elementwise.h
CHANNEL_MULTIPLE = 32  # of the kernels for 3x3 convolutions, as in cpu_winograd.h


class BiasActOptions(NamedTuple):
    """The arguments of `bias_act` other than tensors, in normalized form."""

    dim: int  # not negative
    act: str
    alpha: float
    gain: float
    clamp: float | None  # None for no limit

    def reference(self, x: Tensor | None, b: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what kernels compute derivatives from: (x, b) for swish, (y, None) for all other activations."""
        reference, b = (x, b) if self.act == 'swish' else (y, None)
        assert reference is not None
        return reference, b


class Finish(NamedTuple):
    """What a kernel does with the results z of a convolution: y = clamp(gain * act(scale * z + bias + noise))."""

    scale: Tensor  # [N, C]
    noise: Tensor | None  # [1 or N, 1, H, W]
    bias: Tensor  # [C]
    options: BiasActOptions  # 'linear' or 'lrelu'

    def contiguous(self) -> Finish:
        """Return the same with contiguous tensors, as kernels require."""
        noise = None if self.noise is None else self.noise.contiguous()
        return self._replace(scale=self.scale.contiguous(), noise=noise, bias=self.bias.contiguous())


def check_impl(op: str, impl: str) -> None:
    """Raise ValueError unless `impl` names an implementation."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{op}: unknown impl={impl!r}; use 'cuda' (the fastest available) or 'ref' (plain PyTorch)")


def check_image_batch(op: str, x: Tensor) -> None:
    """Raise ValueError unless `x` is a floating-point tensor of shape [N, C, H, W]."""
    if x.ndim != 4:
        raise ValueError(f'{op}: x must have the shape [N, C, H, W], got {list(x.shape)}')
    if not x.is_floating_point():
        raise ValueError(f'{op}: x must have a floating-point type, got {x.dtype}; convert it first')


def parse_factor(op: str, name: str, value: Any) -> int:
    """Return a sampling factor as an int of at least 1.

    Args:
        op: Name of the operator, for error messages.
        name: Name of the argument, for error messages.
        value: Integer of any type (Python, NumPy or traced).

    Raises:
        ValueError: The value is not an integer of at least 1.
    """
    number = _to_int(value)
    if number is None or number < 1:
        raise ValueError(f'{op}: {name}={value!r} must be an integer of at least 1')
    return number


def parse_factor_xy(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return a sampling factor, given as one integer or as [x, y], as a tuple (x, y). See `parse_factor`."""
    numbers = _to_ints(value)
    if numbers is None or len(numbers) not in (1, 2) or not all(number >= 1 for number in numbers):
        raise ValueError(f'{op}: {name}={value!r} must be an integer of at least 1, or two of them as [x, y]')
    return numbers[0], numbers[-1]


def parse_padding(op: str, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return padding, given as one integer, [x, y] or [x0, x1, y0, y1], as a tuple (x0, x1, y0, y1).

    Args:
        op: Name of the operator, for error messages.
        padding: Integers of any type; negative ones crop.

    Raises:
        ValueError: The padding has another form.
    """
    numbers = _to_ints(padding)
    if numbers is None or len(numbers) not in (1, 2, 4):
        raise ValueError(f'{op}: padding={padding!r} must be an integer, [x, y] or [x0, x1, y0, y1]')
    if len(numbers) == 4:
        x0, x1, y0, y1 = numbers
        return x0, x1, y0, y1
    x, y = numbers[0], numbers[-1]
    return x, x, y, y


def _to_int(value: Any) -> int | None:
    """Return an integer of any type (Python, NumPy or traced) as an int, or None for any other value."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _to_ints(values: Any) -> tuple[int, ...] | None:
    """Return an integer, or a sequence of integers, as a tuple, or None for any other value."""
    if isinstance(values, (list, tuple)):  # asked first for torch.compile: before PyTorch 2.7, it can do no more
        items = tuple(values)
    elif (number := _to_int(values)) is not None:
        return (number,)
    else:
        try:
            items = tuple(values)
        except TypeError:  # not a sequence
            return None
    numbers = tuple(_to_int(item) for item in items)
    return None if None in numbers else tuple(number for number in numbers if number is not None)
