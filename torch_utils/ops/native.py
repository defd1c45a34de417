"""Which kernels an operator uses: `cpu_kernels`, `cuda_kernels`, or none, which means plain PyTorch.

Kernels take pointers, so they serve plain tensors only. A call that is being traced, compiled or transformed goes by
way of the operators that are registered with PyTorch (`custom_op`), or of its own: `route` tells.
"""

import contextlib
import functools
import sys
from typing import NamedTuple

import torch

NAMESPACE = 'ada_gan'  # of the operators in torch.ops

_PLAIN_TENSORS = (
    (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if hasattr(torch.nn, 'Buffer')
    else (torch.Tensor, torch.nn.Parameter)
)
_textbook_only = False


class Backend(NamedTuple):
    """Kernels for one kind of device, or why there are none."""

    kernels: object  # a module, or None
    reason: str | None


def kernels(x):
    """The module of kernels for tensors like `x`, or None."""
    if x.device.type not in ('cpu', 'cuda') or x.is_neg():
        return None
    return backend(x.device).kernels


def route(x):
    """How a call with `x` is to be computed.

    'eager': kernels may be called at once. 'library': through torch.ops, where whoever watches (torch.compile,
    torch.export, a dispatch mode, a subclass of tensors) sees one operator. 'plain': with PyTorch's own operators, for
    torch.jit.trace. 'textbook': as with impl='ref', which torch.func and forward-mode differentiation can transform.
    """
    if _textbook_only:
        return 'textbook'
    if torch.compiler.is_compiling():
        return 'library'
    if (
        torch._C._are_functorch_transforms_active()
        or _gradients_are_batched()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return 'textbook'
    if torch._C._is_tracing():
        return 'plain'
    if type(x) not in _PLAIN_TENSORS or torch._C._len_torch_dispatch_stack() > 0:
        return 'library'
    return 'eager'


def _gradients_are_batched():
    """Whether this is within torch.autograd.grad(..., is_grads_batched=True), which tells nobody else."""
    level = torch._C._vmapmode_increment_nesting()
    torch._C._vmapmode_decrement_nesting()
    return level > 1


def backend(device):
    """The `Backend` of a torch.device; the reason is said on stderr, once."""
    return _cpu_backend() if device.type == 'cpu' else _cuda_backend(device)


@functools.cache
def _cpu_backend():
    from torch_utils.ops import cpu_kernels

    return _said(cpu_kernels, cpu_kernels.available(torch.device('cpu')), 'CPU')


@functools.cache
def _cuda_backend(device):
    from torch_utils.ops import cuda_kernels

    return _said(cuda_kernels, cuda_kernels.available(device), 'CUDA')


def _said(module, reason, name):
    if reason is None:
        return Backend(module, None)
    print(f'No native {name} kernels, so plain PyTorch is used: {reason}.', file=sys.stderr)
    return Backend(None, reason)


@contextlib.contextmanager
def textbook_only():
    """Within this context every operator computes as with impl='ref'. For tests and benchmarks; not for threads."""
    global _textbook_only
    before, _textbook_only = _textbook_only, True
    try:
        yield
    finally:
        _textbook_only = before
