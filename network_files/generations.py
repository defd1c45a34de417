"""Which class of this project a file means: StyleGAN2 and StyleGAN3 have classes of the same names.

The names of its tensors tell which one a network is. If they leave it open, the arguments of its constructor do. The
source code in the file is never consulted. This module also knows what else differs between the two: how the arguments
are arranged, and how large they may be.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import dnnlib
from dnnlib.schema import Either, Integer, ListOf, Number, Optional

_STYLEGAN2 = 'training.networks_stylegan2'
_STYLEGAN3 = 'training.networks_stylegan3'

KNOWN_CLASSES = {
    'Generator': _STYLEGAN2,  # or StyleGAN3's, see `class_for`
    'MappingNetwork': _STYLEGAN2,
    'SynthesisNetwork': _STYLEGAN2,
    'SynthesisInput': _STYLEGAN3,
    'SynthesisBlock': _STYLEGAN2,
    'SynthesisLayer': _STYLEGAN2,
    'ToRGBLayer': _STYLEGAN2,
    'FullyConnectedLayer': _STYLEGAN2,
    'Conv2dLayer': _STYLEGAN2,
    'Discriminator': _STYLEGAN2,
    'DiscriminatorBlock': _STYLEGAN2,
    'DiscriminatorEpilogue': _STYLEGAN2,
    'MinibatchStdLayer': _STYLEGAN2,
    'AugmentPipe': 'training.augment',
}
"""Modules of this project by the class names that files may contain."""

FP16_SETTINGS = dict(num_fp16_res=4, conv_clamp=256)

_TENSORS_OF_STYLEGAN2 = 'synthesis.b'  # b4, b8, ...
_TENSORS_OF_STYLEGAN3 = ('synthesis.input.', 'synthesis.L')  # L0_36_512, L1_36_512, ...
_ONLY_IN_TRAINING = ('freeze_layers', 'freeze_embed')  # arguments of StyleGAN3's mapping network in stylegan3-fun

# ---------------------------------------------------------------------------------------------------------------------
# What a StyleGAN3 generator may ask for: its constructor designs filters, however small the file is.

_SIDE = Integer(1, 2**13)
_FREQUENCY = Number(2**-10, 2**13)
STYLEGAN3_KEYWORDS = {
    'num_layers': Integer(1, 100),
    'num_critical': Integer(0, 100),
    'first_cutoff': _FREQUENCY,
    'first_stopband': _FREQUENCY,
    'last_stopband_rel': Number(1, 2**10),  # sampling rates never decrease from layer to layer
    'margin_size': Integer(0, 1000),
    'output_scale': Number(-1e6, 1e6),
    'conv_kernel': Integer(1, 15),
    'filter_size': Integer(1, 2**4),
    'lrelu_upsampling': Integer(1, 4),
    'magnitude_ema_beta': Number(0, 1),
}
"""Rules of the keywords that only StyleGAN3's generator has."""

_ARGUMENTS_OF_STYLEGAN3 = {
    **STYLEGAN3_KEYWORDS,
    'img_resolution': Either(_SIDE, ListOf(_SIDE, min_length=2, max_length=2)),
    'num_fp16_res': Integer(0, 32),
    'conv_clamp': Optional(Number(0, 1e9)),
}


def check_arguments(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if a constructor does not take these arguments, or would not finish.

    Args:
        cls: Result of `class_for`.
        args: Positional arguments, plain data of limited size.
        kwargs: Keyword arguments in the layout of `adapted`.
    """
    arguments = inspect.signature(cls).bind(*args, **kwargs).arguments
    if cls.__module__ == _STYLEGAN3:
        for key, value in {**arguments, **arguments.get('synthesis_kwargs', {})}.items():
            if key in _ARGUMENTS_OF_STYLEGAN3:
                _ARGUMENTS_OF_STYLEGAN3[key].check(_plain(value), key)


def _plain(value: Any) -> Any:
    """Return numbers and sequences as the types that rules accept."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


# ---------------------------------------------------------------------------------------------------------------------
# Classes and the layout of their arguments


def class_for(class_name: str, kwargs: Mapping[str, Any], tensor_names: Iterable[str]) -> Any:
    """Return the class that a network in a file belongs to.

    Of the classes that both generations have, only `Generator` is a network of its own; the others are parts.

    Args:
        class_name: One of KNOWN_CLASSES.
        kwargs: Keyword arguments of its constructor.
        tensor_names: Dotted names of its parameters and buffers.
    """
    is_stylegan3 = class_name == 'Generator' and _is_stylegan3(kwargs, tensor_names)
    module = _STYLEGAN3 if is_stylegan3 else KNOWN_CLASSES[class_name]
    return dnnlib.util.get_obj_by_name(f'{module}.{class_name}')


def _is_stylegan3(kwargs: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
    for name in tensor_names:
        if name.startswith(_TENSORS_OF_STYLEGAN3):
            return True
        if name.startswith(_TENSORS_OF_STYLEGAN2):
            return False
    return not kwargs.keys().isdisjoint(STYLEGAN3_KEYWORDS)


def adapted(cls: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments in the layout that this project writes.

    A StyleGAN2 generator has its synthesis options in `synthesis_kwargs` (stylegan3 wrote them beside the others), a
    StyleGAN3 generator beside the others. Arguments that do not change what the network computes are left out.
    """
    kwargs = dict(kwargs)
    if cls.__name__ != 'Generator':
        return kwargs
    known = inspect.signature(cls).parameters
    loose = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
    synthesis_kwargs = {**loose, **(kwargs.get('synthesis_kwargs') or {})}
    synthesis_kwargs.pop('fused_modconv_default', None)  # affects how convolutions are computed, not their results
    if cls.__module__ == _STYLEGAN3:
        kwargs.pop('synthesis_kwargs', None)
        mapping_kwargs = kwargs.get('mapping_kwargs')
        if isinstance(mapping_kwargs, Mapping):
            kwargs['mapping_kwargs'] = {k: v for k, v in mapping_kwargs.items() if k not in _ONLY_IN_TRAINING}
        kwargs.update(synthesis_kwargs)
    elif synthesis_kwargs:
        kwargs['synthesis_kwargs'] = synthesis_kwargs
    return kwargs


def with_fp16(cls: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments with half precision in the 4 highest resolutions and activations clamped at 256.

    Args:
        cls: A class of this project, or one from a trusted file.
        kwargs: Keyword arguments of its constructor.
    """
    nested = inspect.signature(cls).parameters.get('synthesis_kwargs')
    if nested is None or nested.kind is nested.VAR_KEYWORD:
        return {**kwargs, **FP16_SETTINGS}
    return {**kwargs, 'synthesis_kwargs': {**(kwargs.get('synthesis_kwargs') or {}), **FP16_SETTINGS}}
