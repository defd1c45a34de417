"""The choice of kernels for a call: `cpu_kernels`, `cuda_kernels`, or none, which means plain PyTorch.

Kernels work on raw memory, so they only take ordinary tensors. Calls that are traced, compiled or transformed go
through the operators that are registered with PyTorch (`custom_op`) or through PyTorch's own operators; see `route`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Literal, NamedTuple

import torch

_ORDINARY_TENSORS = (
    (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if hasattr(torch.nn, 'Buffer')
    else (torch.Tensor, torch.nn.Parameter)
)
_reference_only = False

Route = Literal['eager', 'custom_op', 'pytorch', 'reference']


class Backend(NamedTuple):
    """The kernels for a device, or the reason why there are none."""

    kernels: ModuleType | None
    reason: str | None


def kernels(x: torch.Tensor) -> ModuleType | None:
    """Return the module of kernels for tensors like `x`, or None."""
    if x.device.type not in ('cpu', 'cuda') or x.is_neg():
        return None
    return backend(x.device).kernels


def route(x: torch.Tensor) -> Route:
    """Return how a call with the tensor `x` is computed.

    * 'eager': kernels may be called directly.
    * 'custom_op': through torch.ops, so that torch.compile, torch.export, dispatch modes and tensor subclasses see one
      operator.
    * 'pytorch': with PyTorch's own operators, for torch.jit.trace.
    * 'reference': as with impl='ref', which torch.func and forward-mode differentiation can transform.
    """
    if _reference_only:
        return 'reference'
    if torch.compiler.is_compiling():
        return 'custom_op'
    if (
        torch._C._are_functorch_transforms_active()
        or _gradients_are_batched()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return 'reference'
    if torch._C._is_tracing():
        return 'pytorch'
    if type(x) not in _ORDINARY_TENSORS or torch._C._len_torch_dispatch_stack() > 0:
        return 'custom_op'
    return 'eager'


def _gradients_are_batched() -> bool:
    """Return whether this runs within torch.autograd.grad(..., is_grads_batched=True), which has no public query."""
    level = torch._C._vmapmode_increment_nesting()
    torch._C._vmapmode_decrement_nesting()
    return level > 1


def backend(device: torch.device) -> Backend:
    """Return the backend for a device. If it has no kernels, the reason is printed to stderr once."""
    return _cpu_backend() if device.type == 'cpu' else _cuda_backend(device)


@functools.cache
def _cpu_backend() -> Backend:
    from torch_utils.ops import cpu_kernels

    return _create_backend(cpu_kernels, cpu_kernels.reason_unavailable(torch.device('cpu')), 'CPU')


@functools.cache
def _cuda_backend(device: torch.device) -> Backend:
    from torch_utils.ops import cuda_kernels

    return _create_backend(cuda_kernels, cuda_kernels.reason_unavailable(device), 'CUDA')


def _create_backend(module: ModuleType, reason: str | None, name: str) -> Backend:
    if reason is None:
        return Backend(module, None)
    print(f'No native {name} kernels, using plain PyTorch instead: {reason}.', file=sys.stderr)
    return Backend(None, reason)


@contextlib.contextmanager
def reference_only() -> Iterator[None]:
    """Within this context, every operator computes as with impl='ref'. For tests and benchmarks; not thread-safe."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before
