"""Networks that editing has made, as network files."""

from __future__ import annotations

from typing import Any

import torch

from dnnlib.cli import usage_errors
from network_files import safetensors_files
from network_files.own_classes import with_own_classes
from network_files.reading import open_network
from network_files.writing import save_network_pkl

_KEPT = ('training_set_kwargs', 'class_names', 'classes_without_images')
_NEEDED = ('G_ema', *_KEPT)


def open_for_editing(path: str, option: str, trust: bool = False) -> dict[str, Any]:
    """Open what editing needs of a network file: its G_ema, of this project's classes, and its description.

    Args:
        path: File or URL.
        option: Option to name in errors.
        trust: Run the code in the file.

    Raises:
        click.BadParameter: It cannot be opened.
    """
    with usage_errors(option):
        data = open_network(path, trust=trust, keys=_NEEDED)
        return with_own_classes(data, path) if trust else data


def write(G: torch.nn.Module, described_by: dict[str, Any], dest: str) -> None:
    """Write a generator as a network file, complete or not at all.

    Args:
        G: Generator on the CPU, of this project's classes.
        described_by: Content of the network file whose classes and training data the generator has.
        dest: *.pkl or *.safetensors.
    """
    # Published programs open no file without D, so G_ema stands in for it.
    data = {'G': G, 'D': G, 'G_ema': G, 'augment_pipe': None}
    data |= {key: described_by[key] for key in _KEPT if key in described_by}
    if dest.lower().endswith('.safetensors'):
        safetensors_files.write({**data, 'G': None, 'D': None}, dest)
    else:
        save_network_pkl(data, dest)
