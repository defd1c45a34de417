"""Rewrite network files in the current format; also the module that users import to open network pickles.

`legacy.load_network_pkl(f)` is the published name of `network_files.reading.load_network_pkl`.
"""

from __future__ import annotations

import os

import click

from dnnlib.cli import BOOL, PATH, Command, check_outdir, usage_error, usage_errors
from dnnlib.util import is_url
from network_files import safetensors_files
from network_files.reading import NetworkPickleError, load_network_pkl, open_network
from network_files.writing import save_network_pkl

__all__ = ['NetworkPickleError', 'load_network_pkl', 'open_network', 'save_network_pkl']


@click.command(cls=Command)
@click.option('--source', required=True, type=PATH, help='Networks to read: file or URL')
@click.option('--dest', required=True, type=PATH, help='File to write: *.pkl, or *.safetensors')
@click.option('--force-fp16', type=BOOL, default=False, show_default=True,
              help='Compute the 4 highest resolutions in half precision')  # fmt: skip
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the source (only if you trust its maker)')
def main(source: str, dest: str, force_fp16: bool, trust_pickle: bool) -> None:
    """Rewrite networks with the classes of this project: TensorFlow pickles, pickles of the published PyTorch code,
    and safetensors files, as a pickle or as safetensors (which holds no code at all).

    \b
    Examples:
      python legacy.py --source=stylegan2-ffhq-config-f.pkl --dest=ffhq.pkl
      python legacy.py --source=network-snapshot-025000.pkl --dest=network.safetensors
    """
    if is_url(dest):
        raise usage_error('--dest', f'{dest} is a URL: give a file to write.')
    if os.path.isdir(dest):
        raise usage_error('--dest', f'{dest} is a folder: give a file name.')
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    to_tensors = dest.lower().endswith('.safetensors')
    if to_tensors:
        safetensors_files.require_library()
    with usage_errors('--source'):
        data = open_network(source, force_fp16=force_fp16, trust=trust_pickle)
    if to_tensors:
        safetensors_files.write(data, dest)
    else:
        save_network_pkl(data, dest)
    print(f'Wrote {dest}')


if __name__ == '__main__':
    main()
