"""A picture of generated images beside the training images that are nearest to them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from torch_utils.images import enlarge_with_margin, save_image_grid

_PAIRS_PER_ROW = 4
_MAX_SIDE = 256  # pixels of an image; larger ones are averaged down


def save_gallery(
    path: str | os.PathLike, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], ratios: Sequence[float]
) -> None:
    """Write pairs of images as PNG, in reading order, complete or not at all.

    Args:
        path: PNG file.
        pairs: A generated image and its nearest training image, uint8 [3, H, W] each, at least one pair.
        ratios: How near each pair is; the picture says from where to where those of a row are.

    Raises:
        OSError: The file cannot be written.
    """
    images = torch.stack([image for pair in pairs for image in pair])
    cells = enlarge_with_margin(_reduced(images).numpy())
    num_columns = min(len(pairs), _PAIRS_PER_ROW)
    rows = [ratios[start : start + num_columns] for start in range(0, len(pairs), num_columns)]
    save_image_grid(
        _with_gaps(cells),
        path,
        (2 * num_columns, len(rows)),
        row_labels=[f'{row[0]:.2f} to {row[-1]:.2f}' for row in rows],
        column_labels=['generated', 'nearest'] * num_columns,
    )


def _reduced(images: torch.Tensor) -> torch.Tensor:
    """Average uint8 [N, C, H, W] down by a whole factor, until no side has more than `_MAX_SIDE` pixels."""
    factor = -(-max(images.shape[2:]) // _MAX_SIDE)  # rounded up
    if factor == 1:
        return images
    return torch.nn.functional.avg_pool2d(images.float(), factor).round().to(torch.uint8)


def _with_gaps(cells: np.ndarray) -> np.ndarray:
    """Add white columns left of generated images and right of training images, so that pairs stay together."""
    gap = cells.shape[3] // 8
    left = np.pad(cells[0::2], [(0, 0), (0, 0), (0, 0), (gap, 0)], constant_values=255)
    right = np.pad(cells[1::2], [(0, 0), (0, 0), (0, 0), (0, gap)], constant_values=255)
    return np.stack([left, right], axis=1).reshape(len(cells), *left.shape[1:])
