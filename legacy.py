"""Rewrite network files in the current format; also the module from which users open network pickles.

`legacy.load_network_pkl(f)` is the published name of `network_files.reading.load_network_pkl`.
"""

from __future__ import annotations

from dnnlib.cli import BOOL, Command, check_outdir, usage_error, usage_errors

# The rest may import PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import os
from typing import Any

import click
import torch

from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFile
from generation.latents import make_label
from generation.options import warn_if_unconditional
from network_files import rosinality, safetensors_files
from network_files.cli_types import NetworkFile
from network_files.errors import NetworkPickleError
from network_files.own_classes import with_own_classes
from network_files.reading import load_network_pkl, open_network
from network_files.writing import save_network_pkl

__all__ = ['NetworkPickleError', 'load_network_pkl', 'open_network', 'save_network_pkl']


@click.command(cls=Command)
@click.option(
    '--source',
    required=True,
    type=NetworkFile(),
    metavar='FILE|URL|DIR',
    help='Network file to read, or directory of a training run for its newest one',
)
@click.option('--dest', required=True, type=OutputFile('exchange'), help='File to write: *.pkl, *.safetensors or *.pt')
@click.option(
    '--force-fp16',
    type=BOOL,
    default=False,
    show_default=True,
    help='Compute the 4 highest resolutions in half precision',
)
@click.option(
    '--class',
    'class_text',
    metavar='NAME|INDEX|#INDEX',
    help='For *.pt, which has no labels: the class that a conditional network is written for',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the source (only if you trust its author)')
def main(source: str, dest: str, force_fp16: bool, class_text: str | None, trust_pickle: bool) -> None:
    """Rewrite a network file with the classes of this project, so that everything opens it.

    The source is a TensorFlow pickle, a pickle of the published PyTorch code or of this project, a safetensors file, or
    a file of torch.save in the layout of rosinality's stylegan2-pytorch or with a whole generator. The result is a
    pickle, a safetensors file, which cannot contain code, or *.pt in the layout of stylegan2-pytorch.

    With --trust-pickle, the source may have classes of its own, if this project's have the same parameters by name and
    shape and compute the same. Objects that are not networks are left out.

    \b
    Examples:
      python legacy.py --source=stylegan2-ffhq-config-f.pkl --dest=ffhq.pkl
      python legacy.py --source=network-snapshot-025000.pkl --dest=network.safetensors
      python legacy.py --source=network-snapshot-025000.pkl --dest=network.pt
    """
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    extension = os.path.splitext(dest)[1].lower()
    if extension == '.safetensors':
        safetensors_files.require_library()
    if class_text is not None and extension != '.pt':
        raise usage_error('--class', f'{extension} files have labels, so no class is chosen: leave it out.')
    with usage_errors('--source'):
        data = open_network(source, force_fp16=force_fp16 and not trust_pickle, trust=trust_pickle)
        if trust_pickle:
            data = with_own_classes(data, source, force_fp16)
    if extension == '.safetensors':
        safetensors_files.write(data, dest)
    elif extension == '.pt':
        write_pt(data, class_text, dest)
    else:
        save_network_pkl(data, dest)
    print(f'Wrote {dest}')


def write_pt(data: dict[str, Any], class_text: str | None, dest: str) -> None:
    """Write networks in the layout of stylegan2-pytorch, and say what programs have to be told to open them."""
    G = data['G_ema']
    warn_if_unconditional(G.c_dim, {'--class': class_text})
    label = None
    if G.c_dim > 0:
        with usage_errors():
            label = make_label(data, class_text, None, 'cpu')
    try:
        content = rosinality.to_layout(data, label)
    except rosinality.NotInLayout as error:
        raise usage_error('--dest', f'the network {error}: write *.pkl or *.safetensors.') from error
    with atomic_file(dest) as f:
        torch.save(content, f)
    unusual = rosinality.conventions(G)
    if unusual is not None:
        print(f'Programs that open {dest} have to be told {unusual}, which is not in the file.')


if __name__ == '__main__':
    main()
