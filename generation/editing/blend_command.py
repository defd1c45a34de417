"""`edit.py blend`: coarse layers of one network, fine layers of another."""

from __future__ import annotations

import os

import click

from dnnlib.cli import Command, check_outdir, usage_errors
from dnnlib.outputs import OutputFile
from generation.editing import blending, network_outputs
from network_files.cli_types import NetworkFile


@click.command(cls=Command)
@click.option(
    '--network', type=NetworkFile(), required=True, metavar='PKL|URL|DIR', help='Network with the coarse layers'
)
@click.option(
    '--with', 'with_', type=NetworkFile(), required=True, metavar='PKL|URL|DIR', help='Network with the fine layers'
)
@click.option(
    '--from',
    'from_resolution',
    type=click.IntRange(min=1),
    required=True,
    metavar='RES',
    help='Resolution from which on layers are those of --with, e.g. 32',
)
@click.option(
    '--seam',
    type=click.IntRange(0, 10),
    default=0,
    show_default=True,
    metavar='N',
    help='Doublings of the resolution below --from in which one network passes into the other; 0: a hard seam',
)
@click.option(
    '--mapping',
    type=click.Choice(['first', 'second']),
    default='first',
    show_default=True,
    help='Whose mapping network is used: that of --network or that of --with',
)
@click.option('--dest', type=OutputFile('network'), required=True, help='File to write: *.pkl or *.safetensors')
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickles (only if you trust their authors)')
def blend(
    network: str, with_: str, from_resolution: int, seam: int, mapping: str, dest: str, trust_pickle: bool
) -> None:
    """Blend two networks of the same architecture, of which one was trained from the other.

    The result has the coarse layers of --network, which make shapes and poses, and the fine layers of --with, which
    make colors and textures.

    \b
    Example:
      python train.py --resume=faces.pkl --data=paintings.zip …
      python edit.py blend --network=faces.pkl --with=paintings.pkl --from=32 --seam=1 --dest=blended.pkl
    """
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    first = network_outputs.open_for_editing(network, '--network', trust_pickle)
    second = network_outputs.open_for_editing(with_, '--with', trust_pickle)
    with usage_errors(from_resolution='--from'):
        result = blending.blend(first['G_ema'], second['G_ema'], from_resolution, seam, mapping)
    network_outputs.write(result, first if mapping == 'first' else second, dest)
    print(f'Wrote {dest}')
