"""Draw strips that show the effect of a direction: one row for each latent, one column for each strength."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from generation import rendering
from generation.editing.directions import Direction
from torch_utils import images


def render_strip(
    G: Any,
    ws: torch.Tensor,
    direction: Direction,
    strengths: Sequence[float],
    noise_mode: str = 'const',
    batch_size: int = 4,
) -> np.ndarray:
    """Render latents with several strengths of a direction.

    Args:
        G: Generator on the device of `ws`.
        ws: [N, num_ws, w_dim].
        direction: The direction.
        strengths: S strengths.
        noise_mode: 'const', 'random' or 'none'.
        batch_size: Number of images rendered at once.

    Returns:
        uint8 [N * S, C, H, W], latent by latent.
    """
    step = direction.offset().to(ws)
    edited = torch.stack([w + strength * step for w in ws for strength in strengths])
    return np.concatenate([rendering.render(G, batch, noise_mode) for batch in edited.split(batch_size)])


def save_strip(
    path: str | os.PathLike, cells: np.ndarray, strengths: Sequence[float], row_labels: Sequence[str]
) -> None:
    """Write a strip as PNG, with the strengths above its columns and labels left of its rows.

    Args:
        path: File to write.
        cells: Result of `render_strip`.
        strengths: S strengths.
        row_labels: N labels.
    """
    columns = [f'{strength:+g}' if strength else '0' for strength in strengths]
    cells = images.enlarge_with_margin(cells)
    images.save_image_grid(cells, path, (len(strengths), len(row_labels)), row_labels, columns)
