"""Makes images with a trained generator: one per seed, or one per projected latent.

A seed always gives the same image: its latent is drawn from its own random generator, whatever else is made beside it.
"""

from pathlib import Path

import click

import dnnlib.cli
from dnnlib.cli import usage_errors
from generation import latents, options, projected_latents, rendering
from network_files.reading import open_network


@click.command(cls=dnnlib.cli.Command)
@click.option('--network', type=dnnlib.cli.PATH, required=True, metavar='PKL', help='Network pickle: file or URL')
@click.option('--seeds', type=dnnlib.cli.SeedRange(), help='One image for each, e.g. 0,1,4-6')
@options.trunc_option()
@click.option('--class', 'class_text', metavar='INDEX|NAME', help='Class to show, for conditional networks')
@options.label_option()
@options.noise_mode_option()
@click.option(
    '--projected-w',
    type=dnnlib.cli.PATH,
    metavar='NPZ',
    help='Show these latents (from projector.py) instead of seeds, with the noise found for them unless '
    '--noise-mode is random or none',
)
@click.option('--outdir', type=dnnlib.cli.PATH, required=True, metavar='DIR', help='Folder for the images')
@click.option(
    '--grid',
    'grid_size',
    type=options.GridSize(),
    metavar='WxH',
    help='Write one picture grid.png, W images wide and H high, in place of single files',
)
@options.batch_option()
@options.trust_pickle_option()
@dnnlib.cli.device_option()
def main(
    network: str,
    seeds: list[int] | None,
    truncation_psi: float,
    class_text: str | None,
    label: list[float] | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    grid_size: tuple[int, int] | None,
    batch_size: int,
    trust_pickle: bool,
    device: str,
) -> None:
    """Make images with a trained network.

    \b
    Examples:
      python generate.py --network=network.pkl --seeds=0-31 --trunc=0.7 --outdir=out
      python generate.py --network=network.pkl --seeds=0-31 --grid=8x4 --outdir=out
      python generate.py --network=conditional.pkl --class=3 --seeds=0,5 --outdir=out
      python generate.py --network=attributes.pkl --label=0.2,1,0 --seeds=0,5 --outdir=out
      python generate.py --network=network.pkl --projected-w=projected_w.npz --outdir=out
    """  # fmt: skip
    if projected_w is not None:
        projected_latents.check_readable(projected_w)
    elif seeds is None:
        raise click.UsageError('Nothing to make: give --seeds (e.g. --seeds=0-9) or --projected-w.')
    else:
        latents.check_seeds(seeds)
        check_room(len(seeds), 'seeds', grid_size)
    dnnlib.cli.check_outdir(outdir)
    torch_device = dnnlib.cli.resolve_device(device)

    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    G = data['G_ema'].to(torch_device)
    if grid_size is not None:
        options.check_picture_size(grid_size, G.img_resolution)
    if projected_w is None:
        c = latents.label_of(data, class_text, label, torch_device)
        file_names = [f'seed{seed:04d}.png' for seed in seeds]
        pictures = rendering.of_seeds(G, seeds, c, truncation_psi, noise_mode, batch_size)
    else:
        options.warn_of_ignored(
            '--projected-w', seeds=seeds, class_text=class_text, label=label, truncation_psi=truncation_psi
        )
        found = projected_latents.read(projected_w, G)
        check_room(len(found), 'latents', grid_size)
        file_names = [f'proj{index:02d}.png' for index in range(len(found))]
        pictures = rendering.of_projections(G, found, torch_device, noise_mode, batch_size)

    if grid_size is None:
        written = rendering.write_images(pictures, file_names, Path(outdir))
    else:
        written = rendering.write_grid(pictures, len(file_names), Path(outdir), grid_size)
    click.echo(f'Wrote {written}')


def check_room(count: int, what: str, grid_size: tuple[int, int] | None) -> None:
    columns, rows = grid_size or (count, 1)
    if count > columns * rows:
        raise click.BadParameter(
            f'{columns}x{rows} has {columns * rows} cells, but there are {count} {what}: give a larger grid.',
            param_hint="'--grid'",
        )


if __name__ == '__main__':
    main()
