"""How precise products of float32 numbers are: TensorFloat-32 on CUDA, and what PyTorch puts in its place on a CPU.

PyTorch 2.9 has a new interface for this: each operation has an `fp32_precision`. After a change by the new interface,
PyTorch may raise an error where the old one is read (`allow_tf32`, `get_float32_matmul_precision`), and the old one is
deprecated. So only one of them is used, here and nowhere else: the new one if it exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch


class _Switch(NamedTuple):
    """An attribute of PyTorch that chooses the precision of an operation."""

    owner: Any
    attribute: str
    rounded: Any  # with inputs rounded to TensorFloat-32, whose mantissas have 10 bits
    full: Any

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.attribute)

    @value.setter
    def value(self, value: Any) -> None:
        setattr(self.owner, self.attribute, value)


def _has_new_interface(backends: Any) -> bool:
    owners = (backends.cuda.matmul, getattr(backends.cudnn, 'conv', None))
    return all(hasattr(owner, 'fp32_precision') for owner in owners)


def _switches(backends: Any) -> list[_Switch]:
    """Return those of matrix products and convolutions on CUDA, for `torch.backends`."""
    if _has_new_interface(backends):
        owners = (backends.cuda.matmul, backends.cudnn.conv)
        return [_Switch(owner, 'fp32_precision', 'tf32', 'ieee') for owner in owners]
    return [_Switch(owner, 'allow_tf32', True, False) for owner in (backends.cuda.matmul, backends.cudnn)]


def allow_tensor_float32(allowed: bool) -> None:
    """Let convolutions and matrix products of float32 use TensorFloat-32 on CUDA from now on, or not."""
    for switch in _switches(torch.backends):
        switch.value = switch.rounded if allowed else switch.full


def tensor_float32_setting() -> tuple[Any, ...]:
    """Return the current setting, which can be compared with another one."""
    return tuple(switch.value for switch in _switches(torch.backends))


def unchanged_setting() -> contextlib.AbstractContextManager[None]:
    """Return a context at whose end the setting is again what it is now."""
    return _restored(_switches(torch.backends))


@contextlib.contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Within this context, convolutions and matrix products of float32 use TensorFloat-32 on CUDA, or do not.

    By default, PyTorch uses it for convolutions.
    """
    with unchanged_setting():
        allow_tensor_float32(allowed)
        yield


def readable_setting() -> contextlib.AbstractContextManager[None]:
    """Return a context within which PyTorch's exporters work: they read the setting by the old interface.

    That is an error for "no TensorFloat-32" by the new one. The context is for tracing, not for computing on CUDA.
    """
    return tensor_float32(True)


@contextlib.contextmanager
def accurate_products() -> Iterator[None]:
    """Within this context, matrix products of float32 have its precision on all devices."""
    if not _has_new_interface(torch.backends):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision('highest')
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: Any = torch.backends
    owners = (backends.cuda.matmul, backends.mkldnn.matmul)
    switches = [_Switch(owner, 'fp32_precision', 'tf32', 'ieee') for owner in owners]
    with _restored(switches):
        for switch in switches:
            switch.value = switch.full
        yield


@contextlib.contextmanager
def _restored(switches: Sequence[_Switch]) -> Iterator[None]:
    before = [switch.value for switch in switches]
    try:
        yield
    finally:
        for switch, value in zip(switches, before):
            switch.value = value
