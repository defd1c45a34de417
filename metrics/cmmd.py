"""CMMD (Jayasumana et al., "Rethinking FID: Towards a better evaluation metric for image generation", CVPR 2024,
arXiv 2401.09603): the squared maximum mean discrepancy of CLIP embeddings with a Gaussian kernel.

Embeddings are divided by their lengths, the kernel is k(x, y) = exp(-|x - y|² / (2 σ²)) with σ = 10, and the unbiased
estimate is multiplied by 1000. Other implementations that average over all pairs, including those of an
image with itself, give larger numbers for small sets.

N real and M fake vectors of D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.batching import row_blocks
from metrics.bootstrap import Rng, bootstrap_interval
from metrics.feature_matrix import (
    FeatureArray,
    ProgressCallback,
    StepCounter,
    accurate_matmul,
    compute_dtype,
    feature_pair,
    to_float64,
)

SIGMA = 10
SCALE = 1000
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Cmmd:
    """The distance, and the first-order change of it with the weight of each vector, up to a constant."""

    value: float
    influences_real: np.ndarray  # float64 [N]
    influences_fake: np.ndarray  # float64 [M]

    def interval(self, num_resamples: int, rng: Rng, confidence: float = 0.95) -> tuple[float, float]:
        """Return the bootstrap interval: see `metrics.bootstrap`. The lower end may be negative."""
        influences = [self.influences_real, self.influences_fake]
        return bootstrap_interval(self.value, influences, num_resamples, rng, confidence)


def cmmd(real_features: FeatureArray, fake_features: FeatureArray, progress: ProgressCallback | None = None) -> Cmmd:
    """Return the distance of embeddings, which need not have unit length.

    All kernel values are close to 1. So what is summed up is k - 1, which is exact to 1e-9 in float32; the ones cancel.

    Args:
        real_features: [N, D], floating point, finite.
        fake_features: [M, D], of the same type and on the same device.
        progress: Called with the finished blocks and their number.

    Raises:
        ValueError: The features are not usable, or there are fewer than two of a kind.
    """
    real, fake = feature_pair(real_features, fake_features)
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f'{len(real)} real and {len(fake)} fake embeddings are too few for CMMD. Use 2 or more of each.'
        )
    num_real, num_fake = (len(row_blocks(len(x), _ROWS_AT_ONCE)) for x in (real, fake))
    step = StepCounter(num_real**2 + num_fake**2 + 2 * num_real * num_fake, progress)
    with accurate_matmul():
        unit_real, unit_fake = _unit_length(real), _unit_length(fake)
        within_real = _row_sums(unit_real, unit_real, step) / (len(real) - 1)  # an image with itself adds 0
        within_fake = _row_sums(unit_fake, unit_fake, step) / (len(fake) - 1)
        real_to_fake = _row_sums(unit_real, unit_fake, step) / len(fake)
        fake_to_real = _row_sums(unit_fake, unit_real, step) / len(real)
    return Cmmd(
        float(SCALE * (within_real.mean() + within_fake.mean() - 2 * real_to_fake.mean())),
        2 * SCALE * (within_real - real_to_fake),
        2 * SCALE * (within_fake - fake_to_real),
    )


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    x = features.to(compute_dtype(features.dtype))
    lengths = x.norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError('An embedding is zero and has no direction. Check the detector.')
    return x / lengths


def _row_sums(a: torch.Tensor, b: torch.Tensor, step: StepCounter) -> np.ndarray:
    """Return Σ_j (k(a_i, b_j) - 1) for each i, without the pairs of an image with itself if `a` is `b`: float64."""
    parts = []
    for rows in row_blocks(len(a), _ROWS_AT_ONCE):
        total = to_float64(a.new_zeros([rows.stop - rows.start]))
        for columns in row_blocks(len(b), _ROWS_AT_ONCE):
            squares = 2 - 2 * (a[rows] @ b[columns].T)
            if a is b and rows == columns:
                squares.fill_diagonal_(0)
            total += to_float64(torch.expm1(squares.clamp_min_(0) * (-0.5 / SIGMA**2))).sum(dim=1)
            step()
        parts.append(total.cpu().numpy())
    return np.concatenate(parts)
