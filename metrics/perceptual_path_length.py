"""Mathematics of the perceptual path length (Karras et al., StyleGAN, arXiv 1812.04948, section 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from metrics.feature_matrix import FeatureArray


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return points on the great circles from the directions of `a` to those of `b` (Shoemake, SIGGRAPH 1985).

    `a` and the part of `b` orthogonal to it span the plane of the circle. The length of this part gives the angle more
    accurately than the arc cosine, which loses digits for nearly equal directions.

    Args:
        a: [..., D], floating point, of any length but zero.
        b: Likewise. If the directions are opposite, no single circle joins them, and rounding determines the plane.
        t: 0 at `a`, 1 at `b`; broadcasts against [..., 1].

    Returns:
        Unit vectors [..., D].
    """
    a, b = normalize(a, dim=-1), normalize(b, dim=-1)
    along = (a * b).sum(dim=-1, keepdim=True)
    across = b - along * a
    angle = t * torch.atan2(across.norm(dim=-1, keepdim=True), along)
    return normalize(angle.cos() * a + angle.sin() * normalize(across, dim=-1), dim=-1)


def path_lengths(start: torch.Tensor, end: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return squared distances over the squared step: d(G(t), G(t + ε)) / ε², where d is LPIPS.

    Args:
        start: LPIPS vectors [N, D] of the first image of each pair. Their squared distances are LPIPS.
        end: LPIPS vectors [N, D] of the second image.
        epsilon: The step.

    Returns:
        [N], of the same type as the vectors.
    """
    return (start - end).square().sum(dim=-1) / epsilon**2


def trimmed_mean(distances: FeatureArray, low: float = 1, high: float = 99) -> float:
    """Return the mean of the values between two percentiles, inclusive, in float64.

    If a percentile lies between two values, the lower one is used at `low` and the higher one at `high`.

    Args:
        distances: [N].
        low: Lower percentile, from 0 to 100.
        high: Upper percentile, from 0 to 100.

    Raises:
        ValueError: There are no values, a value is not finite, or the percentiles are out of order.
    """
    values, bottom, top = _values_and_limits(distances, low, high)
    return float(values[(values >= bottom) & (values <= top)].mean(dtype=np.float64))


def trimmed_mean_influences(distances: FeatureArray, low: float = 1, high: float = 99) -> np.ndarray:
    """Return the first-order change of `trimmed_mean` with the weight of each value, up to a constant: float64 [N].

    Values beyond the percentiles count as these (Huber, "Robust statistics", 1981, section 3.3).
    """
    values, bottom, top = _values_and_limits(distances, low, high)
    kept = (values >= bottom) & (values <= top)
    return np.clip(values.astype(np.float64), bottom, top) / kept.mean()


def _values_and_limits(distances: FeatureArray, low: float, high: float) -> tuple[np.ndarray, float, float]:
    values = distances.detach().cpu().numpy() if isinstance(distances, torch.Tensor) else np.asarray(distances)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f'Distances must be one or more finite numbers [N], got shape {list(values.shape)}.')
    if not 0 <= low <= high <= 100:
        raise ValueError(
            f'Percentiles {low} and {high} are not a range. Use numbers from 0 to 100, the lower one first.'
        )
    return values, np.percentile(values, low, method='lower'), np.percentile(values, high, method='higher')
