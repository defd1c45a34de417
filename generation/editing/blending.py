"""Combine generators layer by layer: the coarse layers of one with the fine layers of another, and averages.

Networks that were trained from a common ancestor have layers that still fit together: a blend has the shapes of one
and the textures of the other (arXiv 2010.05334). All of it is linear interpolation between parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from generation.editing.style_layers import is_stylegan3, layer_modules

_MAX_LISTED = 3


def resolutions(G: Any) -> dict[str, int]:
    """Return the resolution of each main layer of a generator by its name, coarse to fine.

    It is the level of StyleGAN2's blocks, which for square images is their side, and the sampling rate of StyleGAN3's
    layers, in pixels per image side.
    """
    if is_stylegan3(G):
        modules = layer_modules(G)
        rates = {name: getattr(module, 'out_sampling_rate', None) for name, module in modules.items()}
        rates['input'] = modules['input'].sampling_rate
        return {name: round(float(rate or 0)) for name, rate in rates.items()}
    return {f'b{level}': level for level in G.synthesis.block_resolutions}


def shares_of_second(G: Any, from_resolution: int, seam: int = 0) -> dict[str, float]:
    """Return the share of the second network in each layer (StyleGAN3) or block (StyleGAN2), by its name.

    Args:
        G: Generator.
        from_resolution: The lowest resolution that is all the second network's.
        seam: Number of doublings below it over which the share rises from 0 to 1, linearly in the logarithm. 0: a hard
            seam.

    Raises:
        InvalidArgument: Argument 'from_resolution': no layer, or only all layers together, would be replaced.
    """
    known = resolutions(G)
    choices = sorted(set(known.values()))
    if from_resolution not in choices[1:]:
        listed = ', '.join(map(str, choices[1:]))
        raise InvalidArgument(
            'from_resolution',
            f'{from_resolution} is not a resolution at which this network can be divided: use one of {listed}.',
        )
    return {
        name: min(max(1 + math.log2(resolution / from_resolution) / (seam + 1), 0), 1)
        for name, resolution in known.items()
    }


@torch.no_grad()
def blend(first: Any, second: Any, from_resolution: int, seam: int = 0, mapping: str = 'first') -> torch.nn.Module:
    """Return a generator with the coarse layers of one network and the fine layers of another.

    Args:
        first: Generator whose layers are below `from_resolution`.
        second: Generator whose layers are from there on; its synthesis network has the same layers and shapes.
        from_resolution: See `shares_of_second`.
        seam: See `shares_of_second`.
        mapping: Whose mapping network the result has: 'first' or 'second'.

    Raises:
        InvalidArgument: Argument 'with': the networks do not fit together. Argument 'from_resolution': see
            `shares_of_second`.
    """
    check_same_shapes(first.synthesis, second.synthesis, 'with')
    source = first if mapping == 'first' else second
    shares = shares_of_second(first, from_resolution, seam)
    result = copy.deepcopy(source).requires_grad_(False)
    theirs = _tensors(second.synthesis)
    ours = _tensors(first.synthesis)
    for name, tensor in _tensors(result.synthesis).items():
        share = shares[name.partition('.')[0]]
        tensor.copy_(_lerp(ours[name], theirs[name], share))
    return result


@torch.no_grad()
def average(networks: Sequence[Any], weights: Sequence[float] | None = None) -> torch.nn.Module:
    """Return a generator whose parameters and buffers are a weighted mean.

    Args:
        networks: Generators of the same shapes, of one training or with a common ancestor.
        weights: A weight of each; their sum is not 0. None: all the same.

    Raises:
        InvalidArgument: Argument 'network' or 'weights'.
    """
    weights = [1.0] * len(networks) if weights is None else list(weights)
    total = sum(weights)
    if len(weights) != len(networks) or total == 0 or not math.isfinite(total):
        raise InvalidArgument(
            'weights', f'{len(weights)} weights for {len(networks)} networks: use one for each, whose sum is not 0.'
        )
    for network in networks[1:]:
        check_same_shapes(networks[0], network, 'network')
        _check_common_waves(networks[0], network)
    result = copy.deepcopy(networks[0]).requires_grad_(False)
    tensors = [_tensors(network) for network in networks]
    for name, tensor in _tensors(result).items():
        mean = torch.stack([w / total * t[name].double() for w, t in zip(weights, tensors)]).sum(dim=0)
        tensor.copy_(mean)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Tensors and checks


def check_same_shapes(first: torch.nn.Module, second: torch.nn.Module, argument: str) -> None:
    """Raise InvalidArgument unless two networks have the same parameters and buffers by name and shape."""
    ours, theirs = _tensors(first), _tensors(second)
    different = [
        f'{name} {_shape(theirs, name)} instead of {_shape(ours, name)}'
        for name in dict.fromkeys([*ours, *theirs])
        if _shape(ours, name) != _shape(theirs, name)
    ]
    if different:
        more = f' and {len(different) - _MAX_LISTED} more' if len(different) > _MAX_LISTED else ''
        raise InvalidArgument(
            argument,
            f'the networks have different layers ({"; ".join(different[:_MAX_LISTED])}{more}): use networks of the '
            'same architecture.',
        )


def _check_common_waves(first: Any, second: Any) -> None:
    """Raise InvalidArgument if StyleGAN3's inputs consist of different waves, which no mean stands for."""
    if is_stylegan3(first) and not torch.equal(first.synthesis.input.freqs, second.synthesis.input.freqs):
        raise InvalidArgument(
            'network',
            'the networks have different input waves, so they have no common ancestor and no useful average: '
            'use networks of one training, or of trainings that began with the same network.',
        )


def _tensors(module: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    return f'with shape {[*tensors[name].shape]}' if name in tensors else 'missing'


def _lerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Return a mixture of two tensors: exactly one of them if the share is 0 or 1."""
    return start if share == 0 else end if share == 1 else start.double().lerp(end.double(), share).to(start.dtype)
