"""`edit.py average`: the mean of several networks."""

from __future__ import annotations

import os

import click

from dnnlib.cli import Command, check_outdir, usage_error, usage_errors
from dnnlib.outputs import OutputFile
from generation.editing import blending, network_outputs
from generation.options import Numbers
from network_files.cli_types import NetworkFile


@click.command(cls=Command)
@click.option(
    '--network',
    'paths',
    type=NetworkFile(),
    required=True,
    multiple=True,
    metavar='PKL|URL|DIR',
    help='Network to average, given two or more times',
)
@click.option(
    '--weights', type=Numbers(), metavar='N,N,…', help='Weight of each network, e.g. 3,1', show_default='all the same'
)
@click.option('--dest', type=OutputFile('network'), required=True, help='File to write: *.pkl or *.safetensors')
@click.option('--trust-pickle', is_flag=True, help='Run the code inside the pickles (only if you trust their authors)')
def average(paths: tuple[str, ...], weights: list[float] | None, dest: str, trust_pickle: bool) -> None:
    """Average the generators of several networks of the same architecture.

    The networks are snapshots of one training, or of trainings that began with the same network; the average of others
    generates nothing useful.

    \b
    Example:
      python edit.py average --network=network-snapshot-004000.pkl --network=network-snapshot-005000.pkl --dest=mean.pkl
    """
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    if len(paths) < 2:
        raise usage_error('--network', 'an average needs two networks or more: give the option several times.')
    opened = [network_outputs.open_for_editing(path, '--network', trust_pickle) for path in paths]
    with usage_errors():
        result = blending.average([data['G_ema'] for data in opened], weights)
    network_outputs.write(result, opened[0], dest)
    print(f'Wrote {dest}')
