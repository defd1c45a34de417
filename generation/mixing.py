"""Style mixing: images that take the styles of some layers from another image (arXiv 1812.04948, section 3.1).

Coarse layers (the first ones) determine pose and shape, fine layers color and texture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.progress import track
from generation import rendering
from torch_utils import images

_WHITE = 255


@dataclass
class StyleMix:
    """The images to mix.

    Args:
        rows: Distinct seeds, one for each row of the grid.
        cols: Distinct seeds, one for each column. A seed may be in both if it means the same latent.
        ws: Latent w [num_ws, w_dim] of each seed.
        layers: Layers whose w comes from the column.
    """

    rows: Sequence[int]
    cols: Sequence[int]
    ws: dict[int, torch.Tensor]
    layers: Sequence[int]

    def pairs(self) -> list[tuple[int, int]]:
        """Return (row, column) of every distinct image; (seed, seed) is the unmixed image of a seed."""
        unmixed = [(seed, seed) for seed in [*self.rows, *self.cols]]
        return list(dict.fromkeys([*unmixed, *((row, col) for row in self.rows for col in self.cols)]))

    def latent(self, row: int, col: int) -> torch.Tensor:
        """Return w [num_ws, w_dim] of the row with the chosen layers of the column."""
        w = self.ws[row].clone()
        w[self.layers] = self.ws[col][self.layers]
        return w

    def grid(self) -> list[list[tuple[int, int] | None]]:
        """Return the pair that each cell of the grid shows: unmixed images at the top and left, an empty corner."""
        top: list[tuple[int, int] | None] = [None, *((col, col) for col in self.cols)]
        grid = [top]
        for row in self.rows:
            grid.append([(row, row), *((row, col) for col in self.cols)])
        return grid


def write_mix(
    G: Any,
    mix: StyleMix,
    outdir: Path,
    noise_mode: str = 'const',
    batch_size: int = 1,
    labels: bool = False,
) -> str:
    """Write every image as ROW-COL.png, and all of them as grid.png.

    Memory holds the grid and one batch.

    Args:
        G: Generator on the device of the latents.
        mix: What to mix.
        outdir: Output folder.
        noise_mode: 'const', 'random' or 'none'; random noise is that of the row's seed.
        batch_size: Number of images rendered at once.
        labels: Write the seeds beside the grid, with white margins between images, which are enlarged by a whole
            number to at least 64 pixels. Otherwise the grid consists of the images alone, and its corner is black.

    Returns:
        A description of what was written.
    """
    pairs = mix.pairs()
    cells: dict[tuple[int, int], list[int]] = {pair: [] for pair in pairs}  # positions of each image in the grid
    grid = [pair for line in mix.grid() for pair in line]
    for index, pair in enumerate(grid):
        if pair is not None:
            cells[pair].append(index)
    canvas = np.zeros([len(grid), G.img_channels, *sides(G.img_resolution)], dtype=np.uint8)
    rendered = _render_pairs(G, mix, pairs, noise_mode, batch_size)
    for pair, image in zip(pairs, track(rendered, len(pairs), 'image')):
        images.save_png(image, outdir / f'{pair[0]}-{pair[1]}.png')
        canvas[cells[pair]] = image
    _write_grid(canvas, mix, outdir / 'grid.png', labels)
    return f'{len(pairs)} images and grid.png to {outdir}'


def _render_pairs(
    G: Any, mix: StyleMix, pairs: Sequence[tuple[int, int]], noise_mode: str, batch_size: int
) -> Iterator[np.ndarray]:
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        ws = torch.stack([mix.latent(row, col) for row, col in batch])  # [N, num_ws, w_dim]
        yield from rendering.render(G, ws, noise_mode, noise_seeds=[row for row, _col in batch])


def _write_grid(canvas: np.ndarray, mix: StyleMix, path: Path, labels: bool) -> None:
    size = len(mix.cols) + 1, len(mix.rows) + 1
    if not labels:
        images.save_image_grid(canvas, path, size)
        return
    canvas = images.enlarge_with_margin(canvas)
    canvas[0] = _WHITE
    row_labels, column_labels = (['', *map(str, seeds)] for seeds in (mix.rows, mix.cols))
    images.save_image_grid(canvas, path, size, row_labels, column_labels)
