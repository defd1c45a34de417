"""The command `edit.py surgery`."""

from __future__ import annotations

import os

import click

from dnnlib.cli import Command, Size, check_outdir, usage_error, usage_errors
from dnnlib.outputs import OutputFile
from generation.editing.surgery import CHANNELS, Changes, changed_networks, parse_classes
from network_files import safetensors_files
from network_files.cli_types import NetworkFile
from network_files.reading import open_network
from network_files.writing import save_network_pkl

_COUNT = click.IntRange(min=1, max=2**16)


@click.command(cls=Command)
@click.option(
    '--network',
    required=True,
    type=NetworkFile(),
    metavar='FILE|URL|DIR',
    help='Network file to change, or directory of a training run for its newest one',
)
@click.option('--dest', required=True, type=OutputFile('network'), help='File to write: *.pkl or *.safetensors')
@click.option('--resolution', type=Size('256x256'), metavar='WxH', help='Size of the images')
@click.option('--channels', type=click.Choice(list(CHANNELS)), help='Channels of the images')
@click.option(
    '--classes',
    metavar='N|NAME,...',
    help='Number of classes, the first of which stay as they are, or names, of which known ones do; 0: no classes',
)
@click.option('--cbase', type=click.IntRange(min=1, max=2**30), help='Channels of a layer, times its resolution')
@click.option('--cmax', type=_COUNT, help='Maximum number of channels of a layer')
def surgery(
    network: str,
    dest: str,
    resolution: tuple[int, int] | None,
    channels: str | None,
    classes: str | None,
    cbase: int | None,
    cmax: int | None,
) -> None:
    """Change the size, the channels or the classes of networks without training them.

    They compute what they computed before as far as possible; the difference is measured and printed. Training can go
    on from the result with train.py --resume, which makes the same changes by itself.

    \b
    Examples:
      python edit.py surgery --network=network.pkl --resolution=512x512 --dest=larger.pkl
      python edit.py surgery --network=network.pkl --channels=rgba --classes=cat,dog --dest=animals.pkl
    """
    check_outdir(os.path.dirname(dest) or os.curdir, '--dest')
    as_safetensors = dest.lower().endswith('.safetensors')
    if as_safetensors:
        safetensors_files.require_library()
    with usage_errors():
        wanted = None if classes is None else parse_classes(classes)
    changes = Changes(size=resolution, channels=channels, classes=wanted, cbase=cbase, cmax=cmax)
    if changes == Changes():
        raise click.UsageError('Nothing to change: add --resolution, --channels, --classes, --cbase or --cmax.')
    with usage_errors('--network'):
        data = open_network(network)
        if data.get('G_ema') is None:
            raise usage_error('--network', f'{network} has no G_ema: use a snapshot of a training run.')
    with usage_errors():
        data, report = changed_networks(data, changes)
    for line in report.describe():
        print(line)
    if as_safetensors:
        safetensors_files.write(data, dest)
    else:
        save_network_pkl(data, dest)
    print(f'Wrote {dest}')
