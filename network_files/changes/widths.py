"""More channels in the layers of a network: the old ones are copied, and the new ones have nearly no weight at first.

What reads a new channel multiplies it by `NUDGE` times a random weight instead of 0, so that the gradient reaches the
new weights from the first step on. The result differs from that of the old network by about as much.

Layers that would lose channels cannot compute the same: they keep their random values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from network_files.changes.architectures import (
    canonical_names,
    construct_like,
    is_stylegan3,
    keywords_of,
    layers_of,
    named_tensors,
    with_synthesis_keywords,
)

NUDGE = 2.0**-12  # of weights that would be 0 otherwise
_SEED = 3


def change_widths(network: Any, channel_base: int, channel_max: int) -> Any:
    """Return a network, G or D, with another number of channels in its layers; see the top of this file."""
    kwargs, widths = keywords_of(network), dict(channel_base=channel_base, channel_max=channel_max)
    if hasattr(network, 'synthesis'):
        wider = construct_like(network, with_synthesis_keywords(kwargs, **widths), _SEED)
    else:
        cmap = {'cmap_dim': network.b4.cmap_dim} if network.c_dim > 0 else {}
        wider = construct_like(network, {**kwargs, **widths, **cmap}, _SEED)
    widen_into(network, wider)
    return wider


@torch.no_grad()
def widen_into(old: Any, new: Any) -> None:
    """Copy all tensors into a network of the same architecture, except for more channels in some layers.

    Tensors that are smaller than the old ones keep their values.
    """
    before, after = named_tensors(old), named_tensors(new)
    names = canonical_names(old)
    gains = dict(_gains(new))
    old_gains = dict(_gains(old))
    for canonical, name in canonical_names(new).items():
        if canonical not in names or name.endswith(('up_filter', 'down_filter', 'resample_filter')):
            continue
        source, target = before[names[canonical]], after[name]
        ratio = old_gains.get(names[canonical], 1.0) / gains.get(name, 1.0)
        if source.shape == target.shape:
            target.copy_(source * ratio)
        elif source.ndim == target.ndim and all(a <= b for a, b in zip(source.shape, target.shape)):
            _place(source * ratio, target)
    if hasattr(new, 'b4'):
        _widen_epilogue(old, new)


def _place(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy a tensor into the first rows and columns; old rows of a weight nearly ignore its new columns."""
    if source.ndim >= 2 and target.shape[1] > source.shape[1] and target.shape[2:] == source.shape[2:]:
        target[: source.shape[0], source.shape[1] :] *= NUDGE
    target[tuple(slice(size) for size in source.shape)] = source


def _gains(network: Any) -> Iterator[tuple[str, float]]:
    """Yield the name and the scale at run time of each weight that has one."""
    for name, module in network.named_modules():
        if hasattr(module, 'weight_gain'):
            yield f'{name}.weight', float(module.weight_gain)
    if is_stylegan3(network):  # these two scale without an attribute
        to_rgb, waves = layers_of(network)[-1], network.synthesis.input
        yield f'synthesis.{network.synthesis.layer_names[-1]}.weight', to_rgb.in_channels**-0.5
        yield 'synthesis.input.weight', waves.channels**-0.5


def _widen_epilogue(old: Any, new: Any) -> None:
    """Widen the last block of a discriminator.

    The minibatch standard deviation is a mean over all channels. So the new ones have nearly no activations instead of
    nearly no weight, and the weight of the mean is multiplied by the ratio of the numbers of channels.
    """
    before, after = old.b4, new.b4
    num_old, num_new = before.in_channels, after.in_channels
    if num_new <= num_old:
        return
    rows = slice(num_old, None)
    if new.block_resolutions:
        last = getattr(new, f'b{new.block_resolutions[-1]}')
        for layer in (last.conv1, getattr(last, 'skip', None)):
            if layer is not None:
                layer.weight[rows] *= NUDGE
    if hasattr(after, 'fromrgb'):
        after.fromrgb.weight[rows] *= NUDGE

    ratio = before.conv.weight_gain / after.conv.weight_gain
    after.conv.weight[:num_old, :num_old] = before.conv.weight[:, :num_old] * ratio
    spread = before.conv.weight[:, num_old:] * ratio
    after.conv.weight[:num_old, num_old:num_new] = torch.randn_like(after.conv.weight[:num_old, num_old:num_new])
    after.conv.weight[:num_old, num_new:] = spread * (num_new / num_old)

    pixels = before.fc.in_features // num_old
    ratio = before.fc.weight_gain / after.fc.weight_gain
    weight = after.fc.weight.unflatten(1, [num_new, pixels])
    weight[:num_old, :num_old] = before.fc.weight.unflatten(1, [num_old, pixels]) * ratio
    weight[:num_old, num_old:] = torch.randn_like(weight[:num_old, num_old:]) * NUDGE
