"""Build networks from a class name, constructor arguments and named tensors, which may come from any file.

Nothing is trusted. The arguments must be plain data of a reasonable size. The network is first built without memory (on
the meta device); it gets memory and values only when the tensors of the file match its parameters and buffers by name
and shape, with none missing or left over.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.text import excerpt
from network_files.errors import NetworkPickleError, UnsupportedNetworkError

NETWORK_KEYS = ('G', 'D', 'G_ema')
KNOWN_CLASSES = {
    'Generator': 'training.networks_stylegan2',
    'MappingNetwork': 'training.networks_stylegan2',
    'SynthesisNetwork': 'training.networks_stylegan2',
    'SynthesisBlock': 'training.networks_stylegan2',
    'SynthesisLayer': 'training.networks_stylegan2',
    'ToRGBLayer': 'training.networks_stylegan2',
    'FullyConnectedLayer': 'training.networks_stylegan2',
    'Conv2dLayer': 'training.networks_stylegan2',
    'Discriminator': 'training.networks_stylegan2',
    'DiscriminatorBlock': 'training.networks_stylegan2',
    'DiscriminatorEpilogue': 'training.networks_stylegan2',
    'MinibatchStdLayer': 'training.networks_stylegan2',
    'AugmentPipe': 'training.augment',
}
"""Modules of this project by the class names that files may contain."""

FP16_SETTINGS = dict(num_fp16_res=4, conv_clamp=256)
_MAX_ARGUMENT_VALUES = 10_000
_MAX_ARGUMENT_DEPTH = 8
_MAX_STRING_LENGTH = 10_000
_MAX_LAYERS = 100
_MAX_LISTED = 5


class Allowance:
    """The number of tensor values that all networks of one file may have: at most the number of bytes of the file."""

    def __init__(self, values: int):
        self.values = values

    def spend(self, values: int, where: str) -> None:
        """Subtract the values of a network; raise NetworkPickleError if there are too many."""
        self.values -= values
        if self.values < 0:
            raise NetworkPickleError(f'{where} was not opened: the network is larger than the file')


def build(
    class_name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    where: str,
    allowance: Allowance,
    force_fp16: bool = False,
) -> torch.nn.Module:
    """Build a network on the CPU with the values in `tensors`.

    Args:
        class_name: One of KNOWN_CLASSES.
        args: Positional arguments of its constructor.
        kwargs: Keyword arguments of its constructor.
        tensors: Every parameter and buffer by its dotted name.
        where: Name of the network in errors: 'FILE: G_ema'.
        allowance: Limit for the whole file; the values of this network are subtracted.
        force_fp16: Use half precision in the 4 highest resolutions, on devices that support it.

    Raises:
        NetworkPickleError: It cannot be built, or the tensors do not match. UnsupportedNetworkError if code in the file
            may be able to.
    """
    cls = dnnlib.util.get_obj_by_name(f'{KNOWN_CLASSES[class_name]}.{class_name}')
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
        raise NetworkPickleError(f'{where} was not opened: the arguments of its constructor are missing')
    _check_arguments([*args, dict(kwargs)], where, num_tensors=len(tensors))
    try:
        kwargs = _adapt_kwargs(class_name, kwargs)
        if force_fp16:
            kwargs = with_fp16(class_name, kwargs)
        inspect.signature(cls).bind(*args, **kwargs)
        with torch.device('meta'), warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # such as division by a size of 0
            module = cls(*args, **kwargs)
    except Exception as error:  # arguments from a file can make a constructor raise anything
        raise UnsupportedNetworkError(
            where,
            f'{class_name} cannot be built from the arguments in the file ({excerpt(error) or type(error).__name__})',
        ) from error
    _compare(module, tensors, where)
    allowance.spend(sum(tensor.numel() for tensor in tensors.values()), where)
    return _fill(module.to_empty(device='cpu'), tensors)


def with_fp16(class_name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments with half precision in the 4 highest resolutions and activations clamped at 256."""
    if class_name == 'Generator':
        return {**kwargs, 'synthesis_kwargs': {**(kwargs.get('synthesis_kwargs') or {}), **FP16_SETTINGS}}
    return {**kwargs, **FP16_SETTINGS}


def named_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, including those that state dicts omit."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _check_arguments(arguments: list[Any], where: str, num_tensors: int) -> None:
    """Refuse arguments that are not plain data, or so large that a constructor would never finish."""
    visited = 0
    pending: list[tuple[Any, int]] = [(arguments, 0)]
    while pending:
        value, depth = pending.pop()
        visited += 1
        if visited > _MAX_ARGUMENT_VALUES or depth > _MAX_ARGUMENT_DEPTH:
            raise _bad_arguments(where, 'too many, or too deeply nested')
        if isinstance(value, Mapping):
            layers = value.get('num_layers', 0)
            if not isinstance(layers, (int, np.integer)) or layers > min(num_tensors, _MAX_LAYERS):
                raise _bad_arguments(where, f'more layers than tensors, or more than {_MAX_LAYERS}')
            pending += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, (list, tuple)):
            if len(value) > _MAX_ARGUMENT_VALUES:
                raise _bad_arguments(where, f'one is a list of {len(value)}')
            pending += [(item, depth + 1) for item in value]
        elif isinstance(value, (int, np.integer)):
            if not -(2**63) <= value < 2**63:
                raise _bad_arguments(where, 'one is an integer of more than 64 bits')
        elif isinstance(value, str):
            if len(value) > _MAX_STRING_LENGTH:
                raise _bad_arguments(where, f'one is a string of {len(value)} characters')
        elif isinstance(value, (np.ndarray, torch.Tensor)):
            if math.prod(max(size, 1) for size in value.shape) > _MAX_ARGUMENT_VALUES:
                raise _bad_arguments(where, f'one is an array of shape {list(value.shape)}')
        elif not isinstance(value, (float, complex, np.generic, type(None), torch.dtype, torch.device)):
            kind = excerpt(getattr(value, 'class_name', type(value).__name__))  # of an object of a foreign class
            raise UnsupportedNetworkError(where, f'an argument of its constructor is a {kind}')


def _bad_arguments(where: str, reason: str) -> NetworkPickleError:
    return NetworkPickleError(f'{where} was not opened: the arguments of its constructor are not usable ({reason})')


def _adapt_kwargs(class_name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments in the current layout; stylegan3 wrote synthesis options at the top level."""
    kwargs = dict(kwargs)
    if class_name == 'Generator':
        cls = dnnlib.util.get_obj_by_name(f'{KNOWN_CLASSES[class_name]}.{class_name}')
        known = inspect.signature(cls).parameters
        loose = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
        synthesis_kwargs = {**loose, **(kwargs.get('synthesis_kwargs') or {})}
        synthesis_kwargs.pop('fused_modconv_default', None)  # affects how convolutions are computed, not their results
        if synthesis_kwargs:
            kwargs['synthesis_kwargs'] = synthesis_kwargs
    return kwargs


# ---------------------------------------------------------------------------------------------------------------------
# Tensors


def _compare(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise NetworkPickleError unless names and shapes of the tensors and of the module are the same."""
    ours = named_tensors(module)
    complaints = [f'{excerpt(name)} is unknown' for name in tensors if name not in ours]
    complaints += [f'{name} is missing' for name in ours if name not in tensors]
    complaints += [
        f'{name} has shape {list(tensor.shape)} instead of {list(ours[name].shape)}'
        for name, tensor in tensors.items()
        if name in ours and tensor.shape != ours[name].shape
    ]
    complaints += [f'{excerpt(name)} is complex' for name, tensor in tensors.items() if tensor.is_complex()]
    if complaints:
        more = len(complaints) - _MAX_LISTED
        raise UnsupportedNetworkError(
            where,
            f'its values do not match {type(module).__name__} '
            f'({"; ".join(complaints[:_MAX_LISTED])}{f" and {more} more" if more > 0 else ""})',
        )


def _fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    ours = named_tensors(module)
    with torch.no_grad():
        for name, tensor in tensors.items():
            ours[name].copy_(tensor)
    return module
