"""Style mixing: images that take the styles of some layers from another image (arXiv 1812.04948, section 3.1).

Coarse layers (the first ones) decide pose and shape, fine ones colour and texture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.progress import track
from generation import rendering
from torch_utils import images

# Of a grid with labels, in pixels: room for the digits of a seed above a column, and between pictures.
_PAPER = 255


@dataclass
class Mixing:
    """What to mix.

    rows: Seeds, each once: one row of the grid for each.
    cols: Seeds, each once: one column of the grid for each. A seed may be in both where it means the same latent.
    ws: Seed → latent w [num_ws, w_dim], for all of them.
    layers: Layers whose w comes from the column.
    """

    rows: Sequence[int]
    cols: Sequence[int]
    ws: dict[int, torch.Tensor]
    layers: Sequence[int]

    def pairs(self) -> list[tuple[int, int]]:
        """(row, column) of every distinct picture: (seed, seed) is that of the seed itself."""
        unmixed = [(seed, seed) for seed in [*self.rows, *self.cols]]
        return list(dict.fromkeys([*unmixed, *((row, col) for row in self.rows for col in self.cols)]))

    def latent(self, row: int, col: int) -> torch.Tensor:
        """w [num_ws, w_dim] of the row, with the chosen layers of the column."""
        w = self.ws[row].clone()
        w[self.layers] = self.ws[col][self.layers]
        return w

    def grid(self) -> list[list[tuple[int, int] | None]]:
        """Which pair each cell of the grid shows: the columns' images on top, the rows' at the left, no corner."""
        top = [None, *((col, col) for col in self.cols)]
        return [top, *([(row, row), *((row, col) for col in self.cols)] for row in self.rows)]


def write(
    G: torch.nn.Module, mixing: Mixing, outdir: Path, noise_mode: str = 'const', batch_size: int = 1,
    labels: bool = True,
) -> str:  # fmt: skip
    """Every picture as ROW-COL.png, and all of them in grid.png. Returns what was written, in words.

    With noise_mode='random' the noise of a picture is that of its row. Memory: the grid, and one batch.

    labels: A grid for people: the seeds beside it, paper between the pictures, and these enlarged by a whole number, to
        64 pixels or more. Otherwise there are the pixels of the pictures alone.
    """
    pairs = mixing.pairs()
    cells: dict[tuple[int, int], list[int]] = {pair: [] for pair in pairs}  # where in the grid each picture goes
    shown = [pair for line in mixing.grid() for pair in line]
    for index, pair in enumerate(shown):
        if pair is not None:
            cells[pair].append(index)
    canvas = np.zeros([len(shown), G.img_channels, *sides(G.img_resolution)], dtype=np.uint8)
    pictures = _pictures(G, mixing, pairs, noise_mode, batch_size)
    for pair, picture in zip(pairs, track(pictures, len(pairs), 'image')):
        images.save_png(picture, outdir / f'{pair[0]}-{pair[1]}.png')
        canvas[cells[pair]] = picture
    _write_grid(canvas, mixing, outdir / 'grid.png', labels)
    return f'{len(pairs)} images and grid.png to {outdir}'


def _pictures(
    G: torch.nn.Module, mixing: Mixing, pairs: Sequence[tuple[int, int]], noise_mode: str, batch_size: int
) -> Iterator[np.ndarray]:
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        ws = torch.stack([mixing.latent(row, col) for row, col in batch])  # [N, num_ws, w_dim]
        yield from rendering.render(G, ws, noise_mode, noise_seeds=[row for row, _ in batch])


def _write_grid(canvas: np.ndarray, mixing: Mixing, path: Path, labels: bool) -> None:
    size = len(mixing.cols) + 1, len(mixing.rows) + 1
    if not labels:
        return images.save_image_grid(canvas, path, size)
    canvas = images.spaced_for_people(canvas)
    canvas[0] = _PAPER
    row_labels, column_labels = (['', *map(str, seeds)] for seeds in (mixing.rows, mixing.cols))
    return images.save_image_grid(canvas, path, size, row_labels, column_labels)
