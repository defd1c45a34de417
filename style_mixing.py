"""Mixes the styles of seeds: a grid whose image (row, column) is the row's, with some layers styled as the column's."""

from pathlib import Path

import click
import torch

import dnnlib.cli
from dnnlib.cli import usage_errors
from generation import latents, mixing, options
from network_files.reading import open_network

_DEFAULT_LAYERS = range(7)


@click.command(cls=dnnlib.cli.Command)
@click.option('--network', type=dnnlib.cli.PATH, required=True, metavar='PKL', help='Network pickle: file or URL')
@click.option('--rows', type=dnnlib.cli.SeedRange(), required=True, help='A row for each of these seeds, e.g. 0,1,4-6')
@click.option('--cols', type=dnnlib.cli.SeedRange(), required=True, help='A column for each of these seeds')
@click.option(
    '--styles',
    type=dnnlib.cli.SeedRange(),
    show_default='0-6, as far as the network has them',
    help="Layers that take the column's style; 0 is the coarsest",
)
@options.trunc_option()
@click.option('--class', 'class_text', metavar='INDEX|NAME', help='Class to show, for conditional networks')
@click.option('--col-class', 'col_class_text', metavar='INDEX|NAME', help='Another class for the columns')
@options.label_option()
@options.label_option('--col-label', help='Another label for the columns')
@options.noise_mode_option()
@click.option(
    '--labels',
    type=dnnlib.cli.BOOL,
    default=True,
    show_default=True,
    help='Write the seeds beside grid.png, with images enlarged to 64 pixels or more; 0: nothing but images',
)
@click.option('--outdir', type=dnnlib.cli.PATH, required=True, metavar='DIR', help='Folder for the images')
@options.batch_option()
@options.trust_pickle_option()
@dnnlib.cli.device_option()
def main(
    network: str,
    rows: list[int],
    cols: list[int],
    styles: list[int] | None,
    truncation_psi: float,
    class_text: str | None,
    col_class_text: str | None,
    label: list[float] | None,
    col_label: list[float] | None,
    noise_mode: str,
    labels: bool,
    outdir: str,
    batch_size: int,
    trust_pickle: bool,
    device: str,
) -> None:
    """Mix styles: ROW-COL.png for each row and column, SEED-SEED.png for each seed alone, and grid.png of them all.

    \b
    Examples:
      python style_mixing.py --network=network.pkl --rows=85,100,75 --cols=55,821,1789 --outdir=out
      python style_mixing.py --network=network.pkl --rows=0-3 --cols=4-7 --styles=8-13 --trunc=0.7 --outdir=out
      python style_mixing.py --network=conditional.pkl --class=dog --col-class=cat --rows=0-3 --cols=4-7 --outdir=out
    """  # fmt: skip
    rows, cols = list(dict.fromkeys(rows)), list(dict.fromkeys(cols))
    latents.check_seeds(rows, '--rows')
    latents.check_seeds(cols, '--cols')
    two_labels = col_class_text is not None or col_label is not None
    if two_labels:
        check_apart(rows, cols)
    dnnlib.cli.check_outdir(outdir)
    torch_device = dnnlib.cli.resolve_device(device)

    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    G = data['G_ema'].to(torch_device)
    options.check_picture_size((len(cols) + 1, len(rows) + 1), G.img_resolution, '--rows')
    layers = choose_layers(styles, G.num_ws)
    row_c = col_c = latents.label_of(data, class_text, label, torch_device)
    if two_labels:
        col_c = latents.label_of(data, col_class_text, col_label, torch_device, '--col-class')
    seeds = list(dict.fromkeys([*rows, *cols]))
    seed_labels = torch.cat([row_c if seed in rows else col_c for seed in seeds])
    ws = latents.ws_of_seeds(G, seeds, seed_labels, truncation_psi)
    written = mixing.write(
        G, mixing.Mixing(rows, cols, dict(zip(seeds, ws)), layers), Path(outdir), noise_mode, batch_size, labels
    )
    click.echo(f'Wrote {written}')


def check_apart(rows: list[int], cols: list[int]) -> None:
    """With two classes or labels a seed is two latents, but SEED-SEED.png is one file."""
    both = [seed for seed in rows if seed in cols]
    if both:
        raise click.BadParameter(
            f'seed {both[0]} is in --rows and in --cols, and would be two pictures of one name: give other seeds.',
            param_hint="'--col-class'",
        )


def choose_layers(styles: list[int] | None, num_ws: int) -> list[int]:
    """The layers to mix. Raises click.BadParameter where the network has no such layer."""
    if styles is None:
        return [layer for layer in _DEFAULT_LAYERS if layer < num_ws]
    if max(styles) >= num_ws:
        raise click.BadParameter(
            f'there is no layer {max(styles)}: this network has {num_ws} layers, 0 to {num_ws - 1}.',
            param_hint="'--styles'",
        )
    return sorted(set(styles))


if __name__ == '__main__':
    main()
