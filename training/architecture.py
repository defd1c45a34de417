"""The architecture of a run that starts from a network file: that of the file, except for what options change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataset_format.images import CHANNEL_KINDS
from dataset_format.sizes import Resolution, describe_size, sides
from network_files.changes.architectures import (
    STYLEGAN2,
    STYLEGAN3_R,
    generation_of,
    is_stylegan3,
    keywords_of,
    sides_of,
    synthesis_keywords,
)
from network_files.changes.resolutions import channel_base_for
from training import known_classes, schema
from training.transfer import Pretrained

_CLAMP_OF_HALF_PRECISION = 256.0  # without a clamp, activations in float16 can overflow


@dataclass(frozen=True)
class Wishes:
    """What a run wants of its networks, whatever the file has; None leaves it to the file.

    Args:
        channel_base: `channel_base` of both networks (twice that in StyleGAN3-R's generator).
        channel_max: Likewise.
        mapping_layers: Number of layers of G's mapping network.
        full_precision: Compute in full precision, without clamping activations.
    """

    channel_base: int | None
    channel_max: int | None
    mapping_layers: int | None
    full_precision: bool


def kwargs_from_file(
    pretrained: Pretrained,
    resolution: Resolution,
    wishes: Wishes,
    G_preset: Mapping[str, Any],
    D_preset: Mapping[str, Any],
    magnitude_ema_beta: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `G_kwargs` and `D_kwargs` of a run with the architecture of a file.

    Args:
        pretrained: The networks of the file.
        resolution: Size of the images of the run.
        wishes: What options change.
        G_preset: Those of the preset: they decide on half precision and the layout of memory.
        D_preset: Likewise, also on what is not part of the function that D computes, and on the mapping of labels if
            the file has none.
        magnitude_ema_beta: Decay of the running means of StyleGAN3's layers.
    """
    G, D = pretrained.networks['G'], pretrained.networks['D']
    G_kwargs, D_kwargs = keywords_of(G), keywords_of(D)
    new_sides = sides(resolution)
    fp16 = {'num_fp16_res': D_preset['num_fp16_res']}

    # Discriminator
    D_kwargs |= _widths(D_kwargs, sides_of(D), new_sides, wishes) | fp16
    D_kwargs['conv_clamp'] = _clamp(D_kwargs, wishes, fp16['num_fp16_res'])
    D_kwargs['cmap_dim'] = D.b4.cmap_dim if D.c_dim > 0 else None
    if D.c_dim == 0:
        D_kwargs['mapping_kwargs'] = dict(D_preset['mapping_kwargs'])
    D_kwargs['block_kwargs'] |= D_preset['block_kwargs']
    # The number of standard deviations is architecture, and stays; the size of their groups depends on the batch.
    D_kwargs['epilogue_kwargs'] |= {'mbstd_group_size': D_preset['epilogue_kwargs']['mbstd_group_size']}

    # Generator
    synthesis = synthesis_keywords(G_kwargs)
    factor = 2 if generation_of(G) == STYLEGAN3_R else 1
    synthesis |= _widths(synthesis, sides_of(G), new_sides, wishes, is_stylegan3(G), factor) | fp16
    synthesis['conv_clamp'] = _clamp(synthesis, wishes, fp16['num_fp16_res'], default=256.0 if factor == 2 else None)
    mapping = {**G_kwargs['mapping_kwargs']}
    if wishes.mapping_layers is not None:
        mapping['num_layers'] = wishes.mapping_layers
    common = {'z_dim': G.z_dim, 'w_dim': G.w_dim, 'mapping_kwargs': mapping}
    if is_stylegan3(G):
        synthesis['magnitude_ema_beta'] = magnitude_ema_beta
        chosen = _known({**common, **synthesis}, schema.STYLEGAN3_GENERATOR_KEYWORDS.keys)
        return {'class_name': known_classes.GENERATOR_STYLEGAN3, **chosen}, _discriminator(D_kwargs)
    synthesis.pop('fp16_channels_last', None)
    if 'fp16_channels_last' in D_preset['block_kwargs']:
        synthesis['fp16_channels_last'] = True
    chosen = _known({**common, 'synthesis_kwargs': synthesis}, schema.GENERATOR_KEYWORDS.keys)
    return {'class_name': known_classes.GENERATOR, **chosen}, _discriminator(D_kwargs)


def _discriminator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = {name: value for name, value in kwargs.items() if name != 'cmap_dim' or value is not None}
    return {'class_name': known_classes.DISCRIMINATOR, **_known(kwargs, schema.DISCRIMINATOR_KEYWORDS.keys)}


def _known(kwargs: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that a configuration can have. Others change how a network computes, but not what."""
    known = {}
    for name, value in kwargs.items():
        if name in rules:
            known[name] = _known(value, rules[name].keys) if isinstance(value, Mapping) else value
    return known


def _widths(
    kwargs: Mapping[str, Any],
    old: tuple[int, int],
    new: tuple[int, int],
    wishes: Wishes,
    for_stylegan3: bool = False,
    factor: int = 1,
) -> dict[str, int]:
    base, most = kwargs['channel_base'], kwargs['channel_max']
    if old != new:
        base = channel_base_for(old, new, base, for_stylegan3)
    if wishes.channel_base is not None:
        base = factor * wishes.channel_base
    if wishes.channel_max is not None:
        most = factor * wishes.channel_max
    return {'channel_base': base, 'channel_max': most}


def _clamp(kwargs: Mapping[str, Any], wishes: Wishes, num_fp16_res: int, default: float | None = None) -> float | None:
    """Return the clamp of the file, none in full precision, and always one in half precision."""
    if wishes.full_precision:
        return None
    clamp = kwargs.get('conv_clamp', default)
    return _CLAMP_OF_HALF_PRECISION if clamp is None and num_fp16_res > 0 else clamp


# ---------------------------------------------------------------------------------------------------------------------
# Table


def describe_architecture(
    pretrained: Pretrained, networks: Mapping[str, Any], class_names: list[str] | None = None
) -> str:
    """Return a table of what a run takes from a file and what it changes.

    Args:
        pretrained: The networks of the file.
        networks: Networks of the run.
        class_names: Names of the classes of the run.
    """
    before = _facts(pretrained.networks, pretrained.class_names)
    after = _facts(networks, class_names)
    rows = [('', 'in the file', 'in this run')]
    rows += [(name, before[name], after[name] if after[name] != before[name] else 'the same') for name in before]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _facts(networks: Mapping[str, Any], class_names: list[str] | None) -> dict[str, str]:
    G, D = networks['G'], networks['D']
    of_G, of_D = synthesis_keywords(keywords_of(G)), keywords_of(D)
    default_clamp = None if generation_of(G) == STYLEGAN2 else 256.0
    return {
        'Generator': generation_of(G),
        'Images': f'{describe_size(sides_of(G))} {CHANNEL_KINDS[G.img_channels]}',
        'Labels': _describe_labels(G.c_dim, class_names),
        'z and w': f'{G.z_dim} and {G.w_dim} numbers',
        'Mapping': f'{G.mapping.num_layers} layers',
        'Channels of G': f'{of_G["channel_base"]} / resolution, at most {of_G["channel_max"]}',
        'Clamp of G': str(of_G.get('conv_clamp', default_clamp)),
        'Discriminator': of_D['architecture'],
        'Channels of D': f'{of_D["channel_base"]} / resolution, at most {of_D["channel_max"]}',
        'Clamp of D': str(of_D['conv_clamp']),
    }


def _describe_labels(c_dim: int, class_names: list[str] | None) -> str:
    if c_dim == 0:
        return 'none'
    if class_names is None:
        return f'{c_dim} numbers'
    listed = ', '.join(name[:12] for name in class_names[:3])
    return f'{c_dim} classes: {listed}{", ..." if c_dim > 3 else ""}'
