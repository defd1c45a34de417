"""Perceptual path length, its mathematics (Karras et al., StyleGAN, arXiv 1812.04948, section 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from metrics.feature_matrix import Features


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Points on the great circles from the directions of `a` to those of `b` (Shoemake, SIGGRAPH 1985).

    The part of `b` that is orthogonal to `a` spans the circle's plane with it. Its length gives the angle, which the
    arc cosine of nearly equal directions would lose.

    Args:
        a, b: [..., D], floating point, of any length but zero. For opposite ones, which no single circle joins, the
              plane is left to rounding.
        t:    0 at `a`, 1 at `b`; broadcasts against [..., 1].

    Returns:
        Unit vectors [..., D].
    """
    a, b = normalize(a, dim=-1), normalize(b, dim=-1)
    along = (a * b).sum(dim=-1, keepdim=True)
    across = b - along * a
    angle = t * torch.atan2(across.norm(dim=-1, keepdim=True), along)
    return normalize(angle.cos() * a + angle.sin() * normalize(across, dim=-1), dim=-1)


def path_lengths(start: torch.Tensor, end: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Squared distances over the squared step, d(G(t), G(t + ε)) / ε² with LPIPS as d.

    Args:
        start, end: LPIPS vectors of the two images of each pair, [N, D], whose squared distance is LPIPS.
        epsilon:    the step.

    Returns:
        [N], of the vectors' type.
    """
    return (start - end).square().sum(dim=-1) / epsilon**2


def trimmed_mean(distances: Features, low: float = 1, high: float = 99) -> float:
    """Mean of what lies between two percentiles, these included; in float64.

    A percentile between two values counts as the lower one at `low` and as the higher one at `high`.

    Args:
        distances: [N].
        low, high: percentiles, 0 to 100.

    Raises:
        ValueError: no values, values that are not finite, or percentiles out of order.
    """
    values = distances.detach().cpu().numpy() if isinstance(distances, torch.Tensor) else np.asarray(distances)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f'Distances of shape {list(values.shape)} have no mean: give one or more finite numbers [N].')
    if not 0 <= low <= high <= 100:
        raise ValueError(f'Percentiles {low} and {high} bound nothing: take 0 to 100, the lower one first.')
    bottom = np.percentile(values, low, method='lower')
    top = np.percentile(values, high, method='higher')
    return float(values[(values >= bottom) & (values <= top)].mean(dtype=np.float64))
