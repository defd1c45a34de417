"""Write a grid of images by a class-conditional network: a row for each class, with its name.

All rows have the same latents, so that a column shows what the label changes. Transparent images are placed on white.

    python scripts/class_grid.py --network=runs/00000-emoji-cond-tiny --columns=10 --outdir=out

writes out/class-grid.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dnnlib.cli import Command, usage_error
from generation import options
from generation.latents import NO_TRUNCATION, Truncation, class_names_of
from generation.rendering import render_seeds
from network_files.reading import open_network
from torch_utils.images import enlarge_with_margin, on_white, save_image_grid

MAX_ROWS = 100
MAX_COLUMNS = 100
BATCH_SIZE = 16


def images_of_classes(
    G: Any, seeds: Sequence[int], num_classes: int, truncation: Truncation = NO_TRUNCATION
) -> np.ndarray:
    """Generate an image for each class and seed, on white if the network draws alpha.

    Args:
        G: Class-conditional generator.
        seeds: Seeds of the latents, the same for all classes.
        num_classes: How many classes, from the first one on.
        truncation: How latents are moved towards a mean of w, with one value of psi.

    Returns:
        uint8 [num_classes * len(seeds), C, H, W], class by class.
    """
    device = next(G.parameters()).device
    cells: list[np.ndarray] = []
    for label in torch.eye(G.c_dim, device=device)[:num_classes]:
        cells += render_seeds(G, seeds, label[None], truncation, batch_size=BATCH_SIZE)
    return on_white(torch.from_numpy(np.stack(cells))).numpy()


@click.command(cls=Command)
@options.network_option()
@options.truncation_options()
@click.option(
    '--columns', type=click.IntRange(1, MAX_COLUMNS), default=10, show_default=True, help='Images of each class'
)
@options.outdir_option()
def main(network: str, truncation: Truncation, columns: int, outdir: str) -> None:
    """Write class-grid.png: images of each class of a network, one row per class."""
    data = open_network(network, keys=['G_ema', 'class_names'])
    G = data['G_ema'].eval().requires_grad_(False)
    if G.c_dim == 0:
        raise usage_error('--network', f'{network} has no classes; generate.py --grid draws its images.')
    num_rows = min(G.c_dim, MAX_ROWS)
    names = class_names_of(data, G.c_dim) or [str(index) for index in range(G.c_dim)]
    cells = images_of_classes(G, range(columns), num_rows, truncation)
    path = Path(outdir, 'class-grid.png')
    save_image_grid(enlarge_with_margin(cells), path, (columns, num_rows), row_labels=names[:num_rows])
    click.echo(f'Wrote {path}: {columns} images of {num_rows} of {G.c_dim} classes.')


if __name__ == '__main__':
    main()
