"""The architecture of a network: the keywords of its constructor, all in one dict, with nothing left to a default."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from dataset_format.sizes import sides

_ONLY_IN_TRAINING = ('freeze_layers', 'freeze_embed')  # of mapping networks and blocks

STYLEGAN2, STYLEGAN3_T, STYLEGAN3_R = GENERATIONS = ('StyleGAN2', 'StyleGAN3-T', 'StyleGAN3-R')


def is_stylegan3(G: torch.nn.Module) -> bool:
    """Return whether a generator is one of StyleGAN3."""
    return hasattr(getattr(G, 'synthesis', None), 'layer_names')


def generation_of(G: Any) -> str:
    """Return one of GENERATIONS."""
    if not is_stylegan3(G):
        return STYLEGAN2
    return STYLEGAN3_R if layers_of(G)[0].conv_kernel == 1 else STYLEGAN3_T


def layers_of(G: Any) -> list[Any]:
    """Return the layers of a generator of StyleGAN3, first to last; the last one is the conversion to RGB."""
    return [getattr(G.synthesis, name) for name in G.synthesis.layer_names]


def keywords_of(network: Any) -> dict[str, Any]:
    """Return the keywords with which a network was constructed, including what was left to defaults.

    Keywords of a network's parts are in `mapping_kwargs`, `synthesis_kwargs` (StyleGAN2), `block_kwargs` and
    `epilogue_kwargs`; those of StyleGAN3's synthesis network are beside the others. Numbers of frozen layers, which
    matter in training only, are left out.
    """
    bound = inspect.signature(type(network)).bind(*network.init_args, **network.init_kwargs)
    bound.apply_defaults()
    kwargs: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            more = value
        else:
            kwargs[name] = value
    kwargs = {name: dict(value or {}) if name.endswith('_kwargs') else value for name, value in kwargs.items()}
    if 'z_dim' in kwargs:
        synthesis = kwargs.setdefault('synthesis_kwargs', {})
        for name, value in more.items():
            synthesis.setdefault(name, value)
        defaults = inspect.signature(type(network.synthesis)).parameters
        for name in ('channel_base', 'channel_max', 'num_fp16_res'):
            synthesis.setdefault(name, defaults[name].default)
        if is_stylegan3(network):
            kwargs.update(kwargs.pop('synthesis_kwargs'))
        kwargs['mapping_kwargs']['num_layers'] = network.mapping.num_layers
    for part in ('mapping_kwargs', 'block_kwargs'):
        for name in _ONLY_IN_TRAINING:
            kwargs.get(part, {}).pop(name, None)
    return _plain(kwargs)


def _plain(value: Any) -> Any:
    """Return a copy that consists of dicts, lists, numbers and text only."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, 'item') else value


def synthesis_keywords(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a generator that are about its synthesis network, from a result of `keywords_of`."""
    if 'synthesis_kwargs' in kwargs:
        return dict(kwargs['synthesis_kwargs'])
    others = ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels', 'mapping_kwargs')
    return {name: value for name, value in kwargs.items() if name not in others}


def with_synthesis_keywords(kwargs: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the keywords of a generator with other ones for its synthesis network."""
    if 'synthesis_kwargs' in kwargs:
        return {**kwargs, 'synthesis_kwargs': {**kwargs['synthesis_kwargs'], **changes}}
    return {**kwargs, **changes}


def sides_of(network: Any) -> tuple[int, int]:
    """Return the height and width of the images of a network."""
    return sides(network.img_resolution)


def construct_like(network: Any, kwargs: Mapping[str, Any], seed: int) -> Any:
    """Construct a network of the same class on the CPU, with random values that depend on nothing but the seed.

    G and G_ema get the same values where both are new: an average of two networks that differ there is neither.

    Args:
        network: A network.
        kwargs: As from `keywords_of`.
        seed: Seed of the values. The random state of the process does not change.

    Raises:
        ValueError: The class cannot have these keywords.
    """
    with torch.random.fork_rng(devices=[]), torch.device('cpu'):
        torch.manual_seed(seed)
        return type(network)(**kwargs).eval().requires_grad_(False)


def named_tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def canonical_names(network: Any) -> dict[str, str]:
    """Return {canonical name: name} of all parameters and buffers.

    The names of StyleGAN3's layers contain their sizes: the canonical name of `synthesis.L2_36_64.bias` is
    `synthesis.L2.bias`. Other names are canonical already.
    """
    names = {}
    for name in named_tensors(network):
        parts = name.split('.')
        if is_stylegan3(network) and parts[0] == 'synthesis' and parts[1] in network.synthesis.layer_names:
            parts[1] = parts[1].split('_')[0]
        names['.'.join(parts)] = name
    return names


@torch.no_grad()
def copy_equal_shapes(source: Any, target: Any) -> set[str]:
    """Copy the tensors that have the same canonical name and shape; return the names of the target that were set."""
    theirs, ours = named_tensors(source), named_tensors(target)
    names = canonical_names(source)
    copied = set()
    same_bands = _bands_of(source) == _bands_of(target)
    for canonical, name in canonical_names(target).items():
        tensor = theirs.get(names.get(canonical, ''))
        if tensor is not None and tensor.shape == ours[name].shape and (same_bands or not _is_filter(name)):
            ours[name].copy_(tensor)
            copied.add(name)
    return copied


def _bands_of(network: Any) -> list[Any]:
    """Return what the filters of a StyleGAN3 generator follow from; [] for other networks."""
    if not is_stylegan3(network):
        return []
    kwargs = synthesis_keywords(keywords_of(network))
    names = 'num_layers num_critical first_cutoff first_stopband last_stopband_rel margin_size filter_size'.split()
    return [sides_of(network), *(kwargs.get(name) for name in (*names, 'lrelu_upsampling', 'use_radial_filters'))]


def _is_filter(name: str) -> bool:
    """Return whether a tensor follows from the architecture alone."""
    return name.endswith(('up_filter', 'down_filter'))
