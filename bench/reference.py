"""The straightforward implementation that the benchmarks compare with.

Resampling by zero insertion, padding, a depthwise convolution in NCHW and strided slicing; bias, activation, gain and
clamp as separate operators; modulation by grouped convolutions with the weights of each sample.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

import torch

from torch_utils.ops import native
from training import networks_stylegan2, networks_stylegan3

T = TypeVar('T')


@contextlib.contextmanager
def reference_implementation() -> Iterator[None]:
    """Within this context, operators and networks compute in the straightforward way."""
    grouped = functools.partial(_modulated_by_groups, networks_stylegan2.modulated_conv2d)
    with (
        native.reference_only(),
        mock.patch.object(networks_stylegan2, 'modulated_conv2d', grouped),
        mock.patch.object(networks_stylegan2, '_block_format', _contiguous),
        mock.patch.object(networks_stylegan3, '_in_fast_format', lambda x, _kernel_size: x.contiguous()),
    ):
        yield


def with_reference(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that runs `function` with the reference implementation."""

    def run() -> T:
        with reference_implementation():
            return function()

    return run


def _modulated_by_groups(
    modulated_conv2d: Callable[..., torch.Tensor], *args: Any, fused_modconv: bool = True, **kwargs: Any
) -> torch.Tensor:
    return modulated_conv2d(*args, fused_modconv=True, **kwargs)


def _contiguous(weight: torch.Tensor, *_args: Any, **_kwargs: Any) -> tuple[torch.dtype, torch.memory_format]:
    return weight.dtype, torch.contiguous_format
