"""Resizing as in Parmar, Zhang and Zhu, "On aliased resizing and surprising subtleties in GAN evaluation" (CVPR 2022,
arXiv 2104.11222): bicubic with an antialiasing filter, in floating point, as Pillow does with images of mode F.
"""

from __future__ import annotations

import functools

import torch

INCEPTION_SIDE = 299  # pixels


def clean_resize(images: torch.Tensor) -> torch.Tensor:
    """Resize to the input of Inception.

    Values can exceed 0 to 255 near edges, and are neither rounded nor clamped.

    Args:
        images: uint8 [N, 3, H, W].

    Returns:
        float32 [N, 3, 299, 299].
    """
    vertical, horizontal = (_weights(side).to(images.device) for side in images.shape[2:])
    return vertical @ images.to(torch.float32) @ horizontal.T


@functools.lru_cache(maxsize=8)
def _weights(side: int) -> torch.Tensor:
    """Return the weights of the pixels along one axis: float32 [299, side].

    PyTorch's filter with antialiasing is Pillow's: cubic convolution with a = -0.5, widened where images shrink. It is
    applied to unit vectors in float64, because its coordinates are not exact in float32.
    """
    unit_vectors = torch.eye(side, dtype=torch.float64)[None, None]  # [1, 1, vectors, side]
    resized = torch.nn.functional.interpolate(unit_vectors, [side, INCEPTION_SIDE], mode='bicubic', antialias=True)
    return resized[0, 0].T.to(torch.float32).contiguous()
