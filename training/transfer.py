"""Start a run from trained networks, whatever their labels, channels and sizes are: `network_files.changes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from network_files.changes.conversion import Report, convert
from network_files.reading import open_network

NETWORKS = ('G', 'D', 'G_ema')


@dataclass(frozen=True)
class Pretrained:
    """The networks of a file from which a run can start.

    Attributes:
        url: File or URL.
        networks: G, D and G_ema.
        class_names: Names of the classes; None if the file has none.
    """

    url: str
    networks: dict[str, Any]
    class_names: list[str] | None


def open_pretrained(url: str) -> Pretrained:
    """Open the network pickle that a run starts from.

    Raises:
        OSError: The file cannot be read or downloaded.
        ValueError: It is not a network pickle, or lacks one of the networks.
    """
    data = open_network(url, keys=(*NETWORKS, 'class_names'))
    for name in NETWORKS:
        if data.get(name) is None or (name == 'D' and data['D'] is data['G_ema']):
            raise ValueError(
                f'{url} has no {name}, but training continues with G, D and G_ema: use a snapshot of a training run.'
            )
    return Pretrained(url, {name: data[name] for name in NETWORKS}, _class_names(data))


def _class_names(data: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes in a file, if it has one for each."""
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != data['G_ema'].c_dim:
        return None
    return [str(name) for name in names] if all(type(name) in (str, int) for name in names) else None


def start_from(
    pretrained: Pretrained,
    networks: Mapping[str, torch.nn.Module],
    class_names: Sequence[str] | None = None,
    one_hot: bool = True,
    measure: bool = True,
) -> Report:
    """Set the networks of a run to trained ones, changed so that they compute the same as far as possible.

    Args:
        pretrained: The trained networks.
        networks: G, D and G_ema of the run; changed in place.
        class_names: Names of the classes of the run.
        one_hot: Whether its labels are classes.
        measure: Whether to measure how much the networks differ from the trained ones.

    Raises:
        ValueError: None of the weights can be used.
    """
    report = convert(pretrained.networks, networks, pretrained.class_names, class_names, one_hot, measure)
    # Filters and biases have the same shapes in many networks, and only weights show what was learned.
    weights = {
        f'{name}.{key}'
        for name, module in networks.items()
        for key, parameter in module.named_parameters()
        if parameter.ndim >= 2
    }
    if weights <= {f'{name}.{key}' for name, keys in report.fresh.items() for key in keys}:
        raise ValueError(
            f'none of the weights in {pretrained.url} match this run by name and shape: leave out --arch=preset, or '
            'use the --cfg, --cbase, --cmax and --map-depth that they were trained with.'
        )
    return report
