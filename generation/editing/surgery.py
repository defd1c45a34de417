"""Networks of another size, other channels or other classes, without training: `network_files.changes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataset_format.labels import MAX_LABEL_DIM
from dataset_format.sizes import as_resolution, describe_unusable_size, is_usable_size, level_of
from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt
from network_files.changes.architectures import (
    construct_like,
    is_stylegan3,
    keywords_of,
    sides_of,
    synthesis_keywords,
    with_synthesis_keywords,
)
from network_files.changes.conversion import Report, convert
from network_files.changes.resolutions import channel_base_for

CHANNELS = {'gray': 1, 'gray-alpha': 2, 'rgb': 3, 'rgba': 4}
_NETWORKS = ('G', 'D', 'G_ema')
_SEED = 6


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What becomes of networks; None keeps what they have.

    Args:
        size: Width and height of the images.
        channels: A key of CHANNELS.
        classes: Names of the classes, or their number; 0 makes the networks unconditional.
        cbase: Channels of a layer, times its resolution.
        cmax: Largest number of channels of a layer.
    """

    size: tuple[int, int] | None = None
    channels: str | None = None
    classes: Sequence[str] | int | None = None
    cbase: int | None = None
    cmax: int | None = None


def changed_networks(data: Mapping[str, Any], changes: Changes) -> tuple[dict[str, Any], Report]:
    """Return the content of a network file after the changes, and what became of the networks.

    Args:
        data: Content of a network file, with 'G_ema'.
        changes: The changes.

    Raises:
        InvalidArgument: A change is impossible, or would remove channels.
    """
    old = {name: data[name] for name in _NETWORKS if data.get(name) is not None}
    if old.get('D') is old['G_ema']:
        del old['D']
    old_names = _class_names(data)
    new_names, c_dim = _new_classes(changes.classes, old_names, old['G_ema'].c_dim)
    new = {name: _construct(network, changes, c_dim) for name, network in old.items()}
    report = convert(old, new, old_names, new_names)
    result = {**data, **new}
    result.pop('classes_without_images', None)
    result.pop('class_names', None)
    if new_names is not None and c_dim > 0:
        result['class_names'] = new_names
    if any((changes.size, changes.channels, changes.classes is not None)):
        result['training_set_kwargs'] = None  # the images of the training are of another kind now
    return result, report


def _class_names(data: Mapping[str, Any]) -> list[str] | None:
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != data['G_ema'].c_dim:
        return None
    return [str(name) for name in names]


def _new_classes(
    classes: Sequence[str] | int | None, names: list[str] | None, c_dim: int
) -> tuple[list[str] | None, int]:
    """Return the names of the new classes, None if they have none, and their number."""
    if classes is None:
        return names, c_dim
    if not isinstance(classes, int):
        return list(classes), len(classes)
    if not 0 <= classes <= MAX_LABEL_DIM:
        raise InvalidArgument('classes', f'{classes} is not a number of classes from 0 to {MAX_LABEL_DIM:,}.')
    if names is None:
        return None, classes
    return [names[index] if index < len(names) else str(index) for index in range(classes)], classes


def parse_classes(text: str) -> list[str] | int:
    """Return a number of classes, or the names in a list such as 'cat,dog'.

    Raises:
        InvalidArgument: A name is empty or occurs twice.
    """
    if text.strip().isdecimal():
        return int(text.strip()[:9])
    names = [name.strip() for name in text.split(',')]
    if '' in names or len(set(names)) < len(names):
        raise InvalidArgument(
            'classes',
            f'{excerpt(repr(text), 50)} has an empty name or the same name twice: use a number of classes such as '
            '4, or different names such as cat,dog.',
        )
    return names


def _construct(network: Any, changes: Changes, c_dim: int) -> Any:
    """Return a network of the architecture that is wanted, with random values."""
    kwargs, has_synthesis = keywords_of(network), hasattr(network, 'synthesis')
    before = synthesis_keywords(kwargs) if has_synthesis else kwargs
    base, most = before['channel_base'], before['channel_max']
    if changes.size is not None:
        width, height = changes.size
        if not is_usable_size(width, height):
            raise InvalidArgument('resolution', f'{describe_unusable_size(width, height)}.')
        kwargs['img_resolution'] = as_resolution(height, width)
        base = channel_base_for(sides_of(network), (height, width), base, is_stylegan3(network))
    if changes.channels is not None:
        kwargs['img_channels'] = CHANNELS[changes.channels]
    wanted_base, wanted_max = changes.cbase or base, changes.cmax or most
    level = level_of(height, width) if changes.size is not None else level_of(*sides_of(network))
    if wanted_base < max(base, level) or wanted_max < most:
        name = 'cbase' if wanted_base < max(base, level) else 'cmax'
        least = max(base, level) if name == 'cbase' else most
        raise InvalidArgument(
            name,
            f'{getattr(changes, name) or base} would remove channels, which changes what the networks compute: use '
            f'{least} or more.',
        )
    if not has_synthesis and network.c_dim > 0 and c_dim > 0:
        kwargs['cmap_dim'] = network.b4.cmap_dim
    kwargs['c_dim'] = c_dim
    widths = {'channel_base': wanted_base, 'channel_max': wanted_max}
    kwargs = with_synthesis_keywords(kwargs, **widths) if has_synthesis else {**kwargs, **widths}
    try:
        return construct_like(network, kwargs, _SEED)
    except ValueError as error:
        raise InvalidArgument('resolution', f'{error}: use another size.') from error
