"""Build networks from a class name, constructor arguments and named tensors, which may come from any file.

Nothing is trusted. The arguments must be plain data of a reasonable size. The network is first built without memory (on
the meta device); it gets memory and values only when the tensors of the file match its parameters and buffers by name
and shape, with none missing or left over.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_module_registration_hook

from dnnlib.text import excerpt
from network_files import generations
from network_files.errors import NetworkPickleError, UnsupportedNetworkError
from network_files.plain_values import TooDeep, walk

NETWORK_KEYS = ('G', 'D', 'G_ema')
_MAX_ARGUMENT_VALUES = 10_000
_MAX_ARGUMENT_DEPTH = 8
_MAX_STRING_LENGTH = 1_000  # constructors may quote all of them in an error
_MAX_LAYERS = 100
_MAX_LISTED = 5
_OTHER_ARGUMENT_TYPES = (list, tuple, complex, np.generic, type(None), torch.dtype, torch.device)


class Allowance:
    """What the content of one file may still cost. Networks and lists can share descriptions of a few bytes.

    Args:
        values: Number of tensor values of all networks: at most the number of bytes of the file.

    Attributes:
        networks: Number of networks. The published programs write 4.
        modules: Number of modules that may be constructed; G, D and G_ema at 1024² have 183 together.
        parts: Number of modules, parameters and buffers that the file may describe, counted as often as they occur.
        items: Number of values in all plain data, counted as often as they occur.
    """

    def __init__(self, values: int):
        self.values = values
        self.networks = 16
        self.modules = 1_500
        self.parts = 20_000
        self.items = 1_000_000

    def spend(self, values: int, where: str) -> None:
        """Subtract the values of a network; raise NetworkPickleError if there are too many."""
        self.values -= values
        if self.values < 0:
            raise NetworkPickleError(f'{where} was not opened: the network is larger than the file')

    def spend_network(self, where: str) -> None:
        """Subtract one network; raise NetworkPickleError if there are too many."""
        self.networks -= 1
        if self.networks < 0:
            raise NetworkPickleError(f'{where} was not opened: the file contains too many networks')

    def spend_parts(self, count: int, where: str) -> None:
        """Subtract parts that the file describes; raise NetworkPickleError if there are too many."""
        self.parts -= count
        if self.parts < 0:
            raise NetworkPickleError(
                f'{where} was not opened: the networks of the file have too many modules, parameters and buffers'
            )

    def spend_item(self, where: str) -> None:
        """Subtract one plain value; raise NetworkPickleError if there are too many."""
        self.items -= 1
        if self.items < 0:
            raise NetworkPickleError(f'{where} cannot be used: the plain data in the file is too large')


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
        class_name: One of `generations.KNOWN_CLASSES`.
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
    allowance.spend_network(where)
    allowance.spend_parts(len(tensors), where)
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
        raise NetworkPickleError(f'{where} was not opened: the arguments of its constructor are missing')
    _check_arguments([*args, dict(kwargs)], where, num_tensors=len(tensors))
    try:
        cls = generations.class_for(class_name, kwargs, tensors)
        kwargs = generations.adapted(cls, kwargs)
        if force_fp16:
            kwargs = generations.with_fp16(cls, kwargs)
        module = _construct(cls, args, kwargs, allowance)
    except Exception as error:  # arguments from a file can make a constructor raise anything
        complaint = excerpt(error).removesuffix('.') or type(error).__name__
        raise UnsupportedNetworkError(
            where, f'{class_name} cannot be built from the arguments in the file ({complaint})'
        ) from error
    _compare(module, tensors, where)
    allowance.spend(sum(tensor.numel() for tensor in tensors.values()), where)
    return _fill(module.to_empty(device='cpu'), tensors)


def construct_on_meta(
    class_name: str, args: Sequence[Any], kwargs: Mapping[str, Any], allowance: Allowance
) -> torch.nn.Module:
    """Call the constructor of one of `generations.KNOWN_CLASSES`, without memory for the values of the network.

    Raises:
        ValueError: The network has more modules than are left in `allowance`.
        Exception: Anything that the constructor raises for unsuitable arguments.
    """
    return _construct(generations.class_for(class_name, kwargs, ()), args, kwargs, allowance)


def _construct(cls: Any, args: Sequence[Any], kwargs: Mapping[str, Any], allowance: Allowance) -> torch.nn.Module:
    generations.check_arguments(cls, args, kwargs)
    with torch.device('meta'), counting_modules(allowance), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # such as those of NumPy about divisions by a size of 0
        module: torch.nn.Module = cls(*args, **kwargs)
        return module


@contextlib.contextmanager
def counting_modules(allowance: Allowance) -> Iterator[None]:
    """Within this context, subtract each module of a network; the first one too many raises ValueError."""
    thread = threading.get_ident()  # the hook is called in all of them

    def count(*_: object) -> None:
        if threading.get_ident() == thread:
            allowance.modules -= 1
            if allowance.modules < 0:
                raise ValueError('the networks of the file have too many modules')

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def named_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, including those that state dicts omit."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _check_arguments(arguments: list[Any], where: str, num_tensors: int) -> None:
    """Refuse arguments that are not plain data, or so large that a constructor would never finish."""
    count = 0
    try:
        for value in walk(arguments, _MAX_ARGUMENT_DEPTH):
            count += 1
            if isinstance(value, (np.ndarray, torch.Tensor)):
                count += math.prod(max(size, 1) for size in value.shape)
            if count > _MAX_ARGUMENT_VALUES:
                raise _bad_arguments(where, f'more than {_MAX_ARGUMENT_VALUES} values')
            if isinstance(value, (np.ndarray, torch.Tensor)):
                for number in value.reshape(-1).tolist():
                    _check_argument(number, where)
            elif isinstance(value, Mapping):
                layers = value.get('num_layers', 0)
                if not isinstance(layers, (int, np.integer)) or layers > min(num_tensors, _MAX_LAYERS):
                    raise _bad_arguments(where, f'more layers than tensors, or more than {_MAX_LAYERS}')
            else:
                _check_argument(value, where)
    except TooDeep:
        raise _bad_arguments(where, 'too deeply nested') from None


def _check_argument(value: Any, where: str) -> None:
    if isinstance(value, (int, np.integer)):
        if not -(2**63) <= int(value) < 2**63:
            raise _bad_arguments(where, 'one is an integer of more than 64 bits')
    elif isinstance(value, (float, np.floating)):
        if 2**63 <= abs(float(value)) < math.inf:  # as a size, it would be an integer of up to 1,024 bits
            raise _bad_arguments(where, 'one is a number of 2 ** 63 or more')
    elif isinstance(value, str):
        if len(value) > _MAX_STRING_LENGTH:
            raise _bad_arguments(where, f'one is a string of {len(value)} characters')
    elif not isinstance(value, _OTHER_ARGUMENT_TYPES):
        kind = excerpt(getattr(value, 'class_name', type(value).__name__))  # of an object of a foreign class
        raise UnsupportedNetworkError(where, f'an argument of its constructor is a {kind}')


def _bad_arguments(where: str, reason: str) -> NetworkPickleError:
    return NetworkPickleError(f'{where} was not opened: the arguments of its constructor are not usable ({reason})')


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
