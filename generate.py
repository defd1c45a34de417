"""Generate images with a trained network: one per seed, or one per projected latent.

A seed always gives the same image, because each latent is drawn from a random generator of its own.
"""

from __future__ import annotations

from pathlib import Path

import click

from dnnlib.cli import Command, check_outdir, device_option, usage_errors
from dnnlib.errors import InvalidArgument
from generation import latents, options, projected_latents, rendering


@click.command(cls=Command)
@options.network_option()
@options.seeds_option('Random seeds, one image each, e.g. 0,1,4-6; ranges ascend, and blanks need quotes')
@options.trunc_option()
@options.class_option()
@options.label_option()
@options.noise_mode_option()
@options.projected_w_option(
    'Use these latents (from projector.py) instead of seeds, with the noise found for them unless --noise-mode is '
    'random or none'
)
@options.outdir_option()
@options.grid_option('Write one picture, grid.png, of W images side by side in H rows, instead of single files')
@options.batch_option()
@options.trust_pickle_option()
@device_option()
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
    """Generate images with a trained network.

    \b
    Examples:
      python generate.py --network=network.pkl --seeds=0-31 --trunc=0.7 --outdir=out
      python generate.py --network=network.pkl --seeds=0-31 --grid=8x4 --outdir=out
      python generate.py --network=conditional.pkl --class=3 --seeds=0,5 --outdir=out
      python generate.py --network=attributes.pkl --label=0.2,1,0 --seeds=0,5 --outdir=out
      python generate.py --network=network.pkl --projected-w=projected_w.npz --outdir=out
    """
    check_inputs(seeds, projected_w, grid_size)
    check_outdir(outdir)
    data, G, torch_device = options.open_generator(network, trust_pickle, device)

    with usage_errors():
        if grid_size is not None:
            options.check_picture_size(grid_size, G.img_resolution)
        if projected_w is not None:
            options.warn_about_ignored('--projected-w', seeds, class_text, label, truncation_psi)
            projected = projected_latents.read(projected_w, G)
            check_grid_has_room(len(projected), 'latents', grid_size)
            file_names = [f'proj{index:02d}.png' for index in range(len(projected))]
            rendered = rendering.render_projected(G, projected, torch_device, noise_mode, batch_size)
        else:
            assert seeds is not None  # see check_inputs
            options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label})
            c = latents.make_label(data, class_text, label, torch_device)
            file_names = [f'seed{seed:04d}.png' for seed in seeds]
            rendered = rendering.render_seeds(G, seeds, c, truncation_psi, noise_mode, batch_size)

    if grid_size is None:
        written = rendering.write_images(rendered, file_names, Path(outdir))
    else:
        written = rendering.write_grid(rendered, len(file_names), Path(outdir), grid_size)
    print(f'Wrote {written}')


def check_inputs(seeds: list[int] | None, projected_w: str | None, grid_size: tuple[int, int] | None) -> None:
    """Check everything that can be checked before the network is opened."""
    with usage_errors():
        if projected_w is not None:
            projected_latents.check_readable(projected_w)
        elif seeds is None:
            raise click.UsageError('Nothing to generate: use --seeds (e.g. --seeds=0-9) or --projected-w.')
        else:
            latents.check_seeds(seeds)
            check_grid_has_room(len(seeds), 'seeds', grid_size)


def check_grid_has_room(count: int, what: str, grid_size: tuple[int, int] | None) -> None:
    """Raise InvalidArgument if there are more images than cells in the grid."""
    columns, rows = grid_size or (count, 1)
    if count > columns * rows:
        raise InvalidArgument(
            'grid', f'{columns}x{rows} has {columns * rows} cells, but there are {count} {what}: use a larger grid.'
        )


if __name__ == '__main__':
    main()
