"""Start from a trained network: what fits of it by name and shape is taken, the rest starts fresh and is listed."""

from __future__ import annotations

import torch

from network_files.reading import open_network
from torch_utils import misc


def open_source(url: str, networks: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """The networks of a pickle to start from, as G, D and G_ema.

    Args:
        url: file or URL, of `--resume`.
        networks: those of this run, under the same names.

    Raises:
        click.BadParameter: it cannot be opened.
        ValueError: it lacks one of the networks, or none of their weights fits.
    """
    source = open_network(url)
    for name in networks:
        if source[name] is None:
            raise ValueError(
                f'{url} has no {name}, but training continues with G, D and G_ema; use a '
                'snapshot of a training run'
            )
    # Filters, biases and the like are alike in all networks: weights are what was learned.
    taken = [
        name
        for name, module in networks.items()
        for tensor in _fitting(source[name], module).values()
        if tensor.ndim >= 2 and isinstance(tensor, torch.nn.Parameter)
    ]
    if not taken:
        raise ValueError(
            f'{url} has no weight that fits this run by name and shape; choose --cfg, --cbase, '
            '--cmax, --cond and the resolution of the dataset as that network has them'
        )
    return {name: source[name] for name in networks}


def take_over(source: dict[str, torch.nn.Module], networks: dict[str, torch.nn.Module]) -> None:
    """Copy what fits from the networks of `open_source`, and print what does not."""
    for name, module in networks.items():
        fitting = _fitting(source[name], module)
        with torch.no_grad():
            for key, tensor in misc.named_params_and_buffers(module):
                if key in fitting:
                    tensor.copy_(fitting[key])
        wanted = [key for key, _tensor in module.named_parameters()]
        given = [key for key, _tensor in source[name].named_parameters()]
        _print_list(
            f'{name}: %d of {len(wanted)} parameters start fresh, as that network has none like them',
            [key for key in wanted if key not in fitting],
        )
        _print_list(
            f'{name}: %d of the {len(given)} parameters of that network find no place here',
            [key for key in given if key not in fitting],
        )


def _fitting(source: torch.nn.Module, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of `source`, by name, for which `module` has one of the same name and shape."""
    shapes = {key: tensor.shape for key, tensor in misc.named_params_and_buffers(module)}
    return {key: tensor for key, tensor in misc.named_params_and_buffers(source) if shapes.get(key) == tensor.shape}


def _print_list(sentence: str, names: list[str]) -> None:
    if names:
        shown = ', '.join(names[:3]) + (f' ... {names[-1]}' if len(names) > 3 else '')
        print(f'{sentence % len(names)}: {shown}')
