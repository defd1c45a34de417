"""Replace the networks of a trusted pickle, whose classes are those in the file, by networks of this project's classes.

A file written from the result opens everywhere without being trusted. Names and shapes of parameters and buffers must
be the same, and so must be what the network computes.
"""

from __future__ import annotations

import inspect
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import torch

from dnnlib.text import excerpt
from network_files import construction, generations, left_out, safe_pickle
from network_files.errors import NetworkPickleError, UnsupportedNetworkError
from network_files.reading import CLASS_OF, NETWORK_KEYS

_LARGEST_DIFFERENCE = 0.01  # relative to the largest value; about 1e-5 is due to rounding
_LAYERS_OF = {
    ('Generator', 'mapping_kwargs'): ['MappingNetwork'],
    ('Generator', 'synthesis_kwargs'): ['SynthesisNetwork', 'SynthesisBlock', 'SynthesisLayer'],
    ('Discriminator', 'mapping_kwargs'): ['MappingNetwork'],
    ('Discriminator', 'block_kwargs'): ['DiscriminatorBlock'],
    ('Discriminator', 'epilogue_kwargs'): ['DiscriminatorEpilogue'],
}
"""The classes that receive the arguments in a keyword dict."""


def with_own_classes(data: Mapping[str, Any], name: str, force_fp16: bool = False) -> dict[str, Any]:
    """Return the content of a trusted file with networks of this project's classes; what else is foreign is left out.

    Args:
        data: Result of `load_network_pkl` with `trust=True`.
        name: Name of the file in errors.
        force_fp16: As in `construction.build`.

    Raises:
        NetworkPickleError: G, D or G_ema cannot be replaced. The message says why.
    """
    replaced: dict[int, torch.nn.Module] = {}  # several keys may share a module
    result: dict[str, Any] = {}
    unsupported: dict[str, str] = {}
    for key, value in data.items():
        where = f'{name}: {excerpt(key)}'
        if key in CLASS_OF and isinstance(value, torch.nn.Module):
            try:
                if id(value) not in replaced:
                    replaced[id(value)] = _replace(value, key, where, force_fp16 and key in NETWORK_KEYS)
                result[key] = replaced[id(value)]
            except UnsupportedNetworkError as error:
                if key in NETWORK_KEYS:
                    raise NetworkPickleError(
                        f"{where} cannot be rewritten with this project's classes: {error.reason}"
                    ) from error
                unsupported[key], result[key] = error.reason, None
        elif (foreign := _foreign_part(value, where)) is not None:
            unsupported[key] = f'{foreign}, which is unknown here'
        else:
            result[key] = value
    left_out.warn(name, unsupported)
    return result


def _replace(old: Any, key: str, where: str, force_fp16: bool) -> torch.nn.Module:
    class_name = CLASS_OF[key]
    if not hasattr(old, 'init_kwargs') or not hasattr(old, 'init_args'):
        raise UnsupportedNetworkError(where, 'the arguments of its constructor are not in the file')
    tensors = construction.named_tensors(old)
    kwargs = _known_arguments(generations.class_for(class_name, old.init_kwargs, tensors), old.init_kwargs)
    allowance = construction.Allowance(sum(tensor.numel() for tensor in tensors.values()))
    new = construction.build(class_name, old.init_args, kwargs, tensors, where, allowance, force_fp16)
    new.eval().requires_grad_(False)
    if key in NETWORK_KEYS:
        _check_same_results(old, new, where)
    return new


def _known_arguments(cls: type, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that this project's class knows; whether the others matter, the results show."""
    known: dict[str, Any] = {}
    parameters = _parameters(cls, [cls.__name__])
    synthesis = _parameters(cls, _LAYERS_OF['Generator', 'synthesis_kwargs'])
    for key, value in kwargs.items():
        if (cls.__name__, key) in _LAYERS_OF and isinstance(value, Mapping):
            names = _parameters(cls, _LAYERS_OF[cls.__name__, key])
            known[key] = {name: item for name, item in value.items() if name in names}
        elif key in parameters or (cls.__name__ == 'Generator' and key in synthesis):
            known[key] = value
    return known


def _parameters(cls: type, class_names: list[str]) -> set[str]:
    """Return the names of the arguments of some classes in the module of `cls`, if it has them."""
    module = sys.modules[cls.__module__]
    return {
        parameter.name
        for name in class_names
        if hasattr(module, name)
        for parameter in inspect.signature(getattr(module, name)).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


@torch.no_grad()
def _check_same_results(old: Any, new: Any, where: str) -> None:
    """Raise UnsupportedNetworkError if two networks with the same tensors compute different results."""
    random = torch.Generator().manual_seed(0)
    c = torch.zeros([1, new.c_dim])
    c[:, :1] = 1
    options: dict[str, Any] = dict(force_fp32=True)
    if type(new).__name__ == 'Generator':
        inputs = torch.randn([1, new.z_dim], generator=random)
        options['noise_mode'] = 'const'
    else:
        size = new.img_resolution if isinstance(new.img_resolution, list) else [new.img_resolution] * 2
        inputs = torch.randn([1, new.img_channels, *size], generator=random)
    try:
        actual, expected = old(inputs, c, **options), new(inputs, c, **options)
        difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-8))
    except Exception as error:  # code of the file can raise anything
        print(
            f"Warning: {where}: the class in the file could not be compared with this project's "
            f'({type(error).__name__}: {excerpt(error)}).',
            file=sys.stderr,
        )
        return
    if difference > _LARGEST_DIFFERENCE:
        raise UnsupportedNetworkError(
            where,
            f'the class {type(old).__name__} in the file computes something else with the same parameters '
            f'(results differ by {difference:.0%})',
        )


def _foreign_part(value: Any, where: str) -> str | None:
    """Return the name of something in `value` that is not plain data; None if there is nothing."""
    try:
        content = io.BytesIO()
        pickle.dump(value, content)
        stored = safe_pickle.loads(content.getvalue(), keep_foreign=True)
        return left_out.foreign_part(stored, where, construction.Allowance(0))
    except safe_pickle.RefusedGlobal as error:
        return error.name
    except Exception:  # code of the file can raise anything
        return type(value).__name__
