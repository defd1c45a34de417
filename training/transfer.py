"""Start a run from trained networks: copy the tensors that match by name and shape, and list the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from network_files.reading import open_network
from torch_utils import misc

MAX_NAMES_LISTED = 4


def open_pretrained(url: str, networks: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Open the network pickle that a run starts from, and return its G, D and G_ema.

    Args:
        url: File or URL.
        networks: The networks of the run, under the same names.

    Raises:
        OSError: The file cannot be read or downloaded.
        ValueError: It is not a network pickle, lacks one of the networks, or none of its weights match.
    """
    pretrained = open_network(url, keys=tuple(networks))
    for name in networks:
        if pretrained[name] is None or (name == 'D' and pretrained['D'] is pretrained['G_ema']):
            raise ValueError(
                f'{url} has no {name}, but training continues with G, D and G_ema: use a snapshot of a training run.'
            )
    # Filters and biases have the same shapes in many networks, and only weights show what was learned.
    has_matching_weights = any(
        tensor.ndim >= 2 and isinstance(tensor, torch.nn.Parameter)
        for name, module in networks.items()
        for tensor in _matching_tensors(pretrained[name], module).values()
    )
    if not has_matching_weights:
        raise ValueError(
            f'none of the weights in {url} match this run by name and shape: use the --cfg, --cbase, --cmax, --cond '
            'and dataset resolution that they were trained with.'
        )
    return {name: pretrained[name] for name in networks}


def copy_pretrained(pretrained: Mapping[str, torch.nn.Module], networks: Mapping[str, torch.nn.Module]) -> None:
    """Copy all matching tensors from the networks of `open_pretrained`, and print which parameters do not match."""
    for name, module in networks.items():
        matching = _matching_tensors(pretrained[name], module)
        with torch.no_grad():
            for key, tensor in misc.named_params_and_buffers(module):
                if key in matching:
                    tensor.copy_(matching[key])
        own = [key for key, _tensor in module.named_parameters()]
        theirs = [key for key, _tensor in pretrained[name].named_parameters()]
        _print_unmatched(
            f'{name}: {{}} of {len(own)} parameters start from random values, since the pickle has none that match',
            [key for key in own if key not in matching],
        )
        _print_unmatched(
            f'{name}: {{}} of {len(theirs)} parameters in the pickle are not used',
            [key for key in theirs if key not in matching],
        )


def _matching_tensors(pretrained: torch.nn.Module, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of `pretrained` that have the name and shape of a tensor of `module`, by name."""
    shapes = {key: tensor.shape for key, tensor in misc.named_params_and_buffers(module)}
    return {key: tensor for key, tensor in misc.named_params_and_buffers(pretrained) if shapes.get(key) == tensor.shape}


def _print_unmatched(sentence: str, names: Sequence[str]) -> None:
    if names:
        listed = ', '.join(names[: MAX_NAMES_LISTED - 1])
        more = f' ... {names[-1]}' if len(names) >= MAX_NAMES_LISTED else ''
        print(f'{sentence.format(len(names))}: {listed}{more}')
