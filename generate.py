"""Generate images with a trained network: one per seed, or one per projected latent.

A seed always gives the same image, because each latent is drawn from a random generator of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import numpy as np

from dnnlib.cli import Command, check_outdir, usage_errors
from dnnlib.errors import InvalidArgument
from generation import image_transforms, latents, options, projected_latents, rendering
from generation.editing.direction_options import Edit, direction_options

_MAX_IMAGES = 10_000_000


@click.command(cls=Command)
@options.network_option()
@options.seeds_option('Random seeds, one image each, e.g. 0,1,4-6; ranges ascend, and blanks need quotes')
@options.truncation_options(several='several images of each latent')
@click.option(
    '--circle',
    'num_turns',
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar='N',
    help='Generate N images on a circle through the latent z of each seed, the seed itself first',
)
@options.class_option()
@options.label_option()
@options.noise_mode_option()
@options.projected_w_option(
    'Use these latents (from projector.py) instead of seeds, with the noise found for them unless --noise-mode is '
    'random or none'
)
@direction_options()
@options.translate_option()
@options.rotate_option()
@options.outdir_option()
@options.grid_option('Write one picture, grid.png, of W images side by side in H rows, instead of single files')
@options.batch_option()
@options.execution_options()
def main(
    network: str,
    seeds: list[int] | None,
    truncation: latents.Truncation,
    num_turns: int,
    class_text: str | None,
    label: list[float] | None,
    noise_mode: str,
    projected_w: str | None,
    edit: Edit,
    shifts: list[image_transforms.Shift] | None,
    rotations: list[float] | None,
    outdir: str,
    grid_size: tuple[int, int] | None,
    batch_size: int,
    trust_pickle: bool,
    cuda_graphs: bool,
    device: str,
) -> None:
    """Generate images with a trained network.

    \b
    Examples:
      python generate.py --network=network.pkl --seeds=0-31 --trunc=0.5,0.7 --outdir=out
      python generate.py --network=network.pkl --seeds=0-31 --grid=8x4 --outdir=out
      python generate.py --network=conditional.pkl --class=3 --seeds=0,5 --outdir=out
      python generate.py --network=attributes.pkl --label=0.2,1,0 --seeds=0,5 --outdir=out
      python generate.py --network=network.pkl --projected-w=w.npz --direction=edits.safetensors:pca0:2 --outdir=out
      python generate.py --network=stylegan3.pkl --seeds=7 --rotate=0,15,30 --grid=3x1 --outdir=out
    """
    with usage_errors():
        transforms = image_transforms.combine(shifts, rotations)
        variants = names_of_variants(num_turns, truncation.psi, len(transforms))
        check_inputs(seeds, projected_w, len(variants), grid_size)
    check_outdir(outdir)
    data, G, torch_device = options.open_generator(network, trust_pickle, device, cuda_graphs)
    options.warn_if_without_noise(G, f'--noise-mode={noise_mode}', noise_mode != 'const')
    with usage_errors():
        image_transforms.check_supported(G, {'translate': shifts, 'rotate': rotations})
        options.check_picture_size(grid_size, G.img_resolution)
        if projected_w is not None:
            options.warn_about_ignored_latents('--projected-w', seeds, class_text, label, truncation, num_turns > 1)
            projected = edit.apply_to_projected(G, projected_latents.read(projected_w, G))
            check_grid_has_room(len(projected), 'latents', len(transforms), grid_size)
            names = [f'proj{index:02d}' for index in range(len(projected))]
            variants = names_of_variants(1, (1,), len(transforms))
            rendered = rendering.render_projected(
                G, projected, torch_device, noise_mode, batch_size, transforms=transforms, as_projected=True
            )
        else:
            assert seeds is not None  # see check_inputs
            options.warn_if_unconditional(G.c_dim, {'--class': class_text, '--label': label})
            options.check_truncation(G, truncation)
            c = latents.make_label(data, class_text, label, torch_device)
            names = [f'seed{seed:04d}' for seed in seeds]
            rendered = rendering.render_seeds(
                G, seeds, c, truncation, noise_mode, batch_size, transforms, edit.offset(G), num_turns
            )
    file_names = [f'{name}{variant}.png' for name in names for variant in variants]
    print(f'Wrote {write(rendered, file_names, Path(outdir), grid_size)}')


def write(
    rendered: Iterable[np.ndarray], file_names: list[str], outdir: Path, grid_size: tuple[int, int] | None
) -> str:
    """Write each image to a file, or all to one grid, and return a sentence for the user."""
    if grid_size is None:
        return rendering.write_images(rendered, file_names, outdir)
    return rendering.write_grid(rendered, len(file_names), outdir, grid_size)


def names_of_variants(num_turns: int, psi: Sequence[float], num_transforms: int) -> list[str]:
    """Return what follows a seed in the names of its images, in their order; [''] for a single image."""
    turns = [f'-turn{turn:03d}' for turn in range(num_turns)] if num_turns > 1 else ['']
    truncations = [f'-trunc{value:g}' for value in psi] if len(psi) > 1 else ['']
    transforms = [f'-{index:02d}' for index in range(num_transforms)] if num_transforms > 1 else ['']
    names = [''.join(parts) for parts in itertools.product(turns, truncations, transforms)]
    if len(set(names)) < len(names):
        raise InvalidArgument('trunc', 'a value occurs twice: use different ones.')
    return names


def check_inputs(
    seeds: list[int] | None,
    projected_w: str | None,
    num_variants: int,
    grid_size: tuple[int, int] | None,
) -> None:
    """Check everything that can be checked before the network is opened."""
    if projected_w is not None:
        projected_latents.check_readable(projected_w)
    elif seeds is None:
        raise click.UsageError('Nothing to generate: use --seeds (e.g. --seeds=0-9) or --projected-w.')
    else:
        latents.check_seeds(seeds)
        check_grid_has_room(len(seeds), 'seeds', num_variants, grid_size)


def check_grid_has_room(count: int, what: str, num_variants: int, grid_size: tuple[int, int] | None) -> None:
    """Raise InvalidArgument if there are more images than cells in the grid, or more than can be written."""
    if num_variants > 1:
        what, count = f'images of {count} {what}', count * num_variants
    if count > _MAX_IMAGES:
        raise click.UsageError(f'{count:,} {what} are too many for one call: generate {_MAX_IMAGES:,} or fewer.')
    columns, rows = grid_size or (count, 1)
    if count > columns * rows:
        raise InvalidArgument(
            'grid', f'{columns}x{rows} has {columns * rows} cells, but there are {count} {what}: use a larger grid.'
        )


if __name__ == '__main__':
    main()
