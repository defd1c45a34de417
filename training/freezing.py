"""Layers that a run does not train: of the generator, of its mapping network, and of the discriminator.

The first layers of D are frozen by Freeze-D (arXiv 2002.10964), where its constructor knows how. Those of G are frozen
here, by leaving their parameters to no optimizer, so that network files are the same as without: the first layers of
the synthesis network with the styles that they compute from w (Freeze-SG), and, as in stylegan3-fun, the first layers
of the mapping network and the embedding of the label.
"""

from __future__ import annotations

from typing import Any

import torch

from dataset_format.sizes import Resolution, num_halvings, sides
from dnnlib.errors import InvalidArgument
from training import known_classes
from training.config import TrainingConfig

_DEFAULT_STYLEGAN3_LAYERS = 14


def frozen_parameters(name: str, network: Any, config: TrainingConfig) -> set[str]:
    """Return the names of the parameters of a network that a run does not train.

    Args:
        name: 'G' or 'D'. The frozen layers of D have no parameters, so the result is empty.
        network: The network.
        config: Configuration of the run.
    """
    if name != 'G':
        return set()
    prefixes = [f'mapping.fc{index}.' for index in range(config.frozen_mapping_layers)]
    if config.frozen_embedding:
        prefixes.append('mapping.embed.')
    prefixes += _synthesis_prefixes(network.synthesis, config.frozen_G_layers)
    return {key for key, _parameter in network.named_parameters() if key.startswith(tuple(prefixes))}


def trainable_parameters(name: str, network: Any, config: TrainingConfig) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the parameters that the optimizer of a network gets, with their names, in the order of its state."""
    frozen = frozen_parameters(name, network, config)
    return [(key, parameter) for key, parameter in network.named_parameters() if key not in frozen]


def _synthesis_prefixes(synthesis: Any, count: int) -> list[str]:
    """Return the beginnings of the names in the first convolutions, and in what belongs to them alone."""
    if count == 0:
        return []
    if hasattr(synthesis, 'layer_names'):
        return ['synthesis.input.', *(f'synthesis.{name}.' for name in synthesis.layer_names[:count])]
    prefixes, index = [], 0
    for level in synthesis.block_resolutions:
        block = getattr(synthesis, f'b{level}')
        names = ['conv1'] if block.in_channels == 0 else ['conv0', 'conv1']
        frozen = names[: max(count - index, 0)]
        if frozen == names:
            frozen += ['const', 'torgb', 'skip']
        prefixes += [f'synthesis.b{level}.{name}' for name in frozen]
        index += len(names)
    return prefixes


def check_frozen_layers(
    freezeg: int | None,
    freezem: int | None,
    freezee: bool,
    G_kwargs: dict[str, Any],
    resolution: Resolution,
    c_dim: int,
) -> None:
    """Check that a generator has as many layers as are to be frozen, and an embedding.

    Raises:
        InvalidArgument: It has not.
    """
    num_layers = num_synthesis_layers(G_kwargs, resolution)
    if freezeg is not None and freezeg > num_layers:
        raise InvalidArgument(
            'freezeg',
            f'{freezeg} is too large: the generator has {num_layers} layers before its last conversion to RGB. Use a '
            f'number from 0 to {num_layers}.',
        )
    mapping_layers = G_kwargs['mapping_kwargs']['num_layers']
    if freezem is not None and freezem > mapping_layers:
        raise InvalidArgument(
            'freezem',
            f'{freezem} is too large: the mapping network has {mapping_layers} layers. Use a number from 0 to '
            f'{mapping_layers}.',
        )
    if freezee and c_dim == 0:
        raise InvalidArgument(
            'freezee', '1 freezes the embedding of labels, but this run has none: add --cond=1, or remove it.'
        )


def num_synthesis_layers(G_kwargs: dict[str, Any], resolution: Resolution) -> int:
    """Return the number of convolutions of a generator, without conversions to RGB."""
    if G_kwargs['class_name'] == known_classes.GENERATOR:
        return 2 * num_halvings(*sides(resolution)) + 1
    return int(G_kwargs.get('num_layers', _DEFAULT_STYLEGAN3_LAYERS))


def num_freezable_layers(d_architecture: str, resolution: Resolution) -> int:
    """Return the number of layers of a discriminator before its last block, which is always trained."""
    num_blocks = num_halvings(*sides(resolution))
    if d_architecture == 'orig':
        return 2 * num_blocks + 1  # two convolutions, and one layer that reads the image
    return 3 * num_blocks + (d_architecture == 'resnet')  # and a third layer in each block: fromrgb or skip
