"""Rewrite network files in the current format; also the module from which users open network pickles.

`legacy.load_network_pkl(f)` is the published name of `network_files.reading.load_network_pkl`.
"""

from __future__ import annotations

import os

import click

from dnnlib.cli import BOOL, Command, check_outdir, usage_errors
from dnnlib.outputs import OutputFile
from network_files import safetensors_files
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
@click.option('--dest', required=True, type=OutputFile('network'), help='File to write: *.pkl or *.safetensors')
@click.option(
    '--force-fp16',
    type=BOOL,
    default=False,
    show_default=True,
    help='Compute the 4 highest resolutions in half precision',
)
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the source (only if you trust its author)')
def main(source: str, dest: str, force_fp16: bool, trust_pickle: bool) -> None:
    """Rewrite a network file with the classes of this project, so that everything opens it.

    The source is a TensorFlow pickle, a pickle of the published PyTorch code or of this project, or a safetensors file.
    The result is a pickle, or a safetensors file, which cannot contain code.

    With --trust-pickle, the source may have classes of its own, if this project's have the same parameters by name and
    shape and compute the same. Objects that are not networks are left out.

    \b
    Examples:
      python legacy.py --source=stylegan2-ffhq-config-f.pkl --dest=ffhq.pkl
      python legacy.py --source=network-snapshot-025000.pkl --dest=network.safetensors
    """
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    as_safetensors = dest.lower().endswith('.safetensors')
    if as_safetensors:
        safetensors_files.require_library()
    with usage_errors('--source'):
        data = open_network(source, force_fp16=force_fp16 and not trust_pickle, trust=trust_pickle)
        if trust_pickle:
            data = with_own_classes(data, source, force_fp16)
    if as_safetensors:
        safetensors_files.write(data, dest)
    else:
        save_network_pkl(data, dest)
    print(f'Wrote {dest}')


if __name__ == '__main__':
    main()
