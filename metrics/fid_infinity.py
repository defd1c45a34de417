"""FID∞ (Chong and Forsyth, "Effectively unbiased FID and Inception score and where to find them", CVPR 2020,
arXiv 1911.07023): what FID would be with infinitely many generated images.

The bias of FID is nearly proportional to 1/n for n generated images. So FID is computed for subsets of several sizes,
and a line in 1/n is extended to 0. The bias from the number of real images remains; it is the same for all networks
that are compared with the same images.

N real and M fake vectors of D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.bootstrap import Rng, bootstrap_interval
from metrics.feature_matrix import FeatureArray, ProgressCallback, StepCounter, accurate_matmul, feature_pair
from metrics.frechet_inception_distance import frechet_distance, influences, moments

NUM_SIZES = 15  # of subsets, evenly spaced from a tenth of the images to all of them


@dataclass(frozen=True)
class FidInfinity:
    """The extrapolated distance, and what it is extrapolated from."""

    value: float
    sizes: np.ndarray  # int64 [NUM_SIZES]
    distances: np.ndarray  # float64 [NUM_SIZES]
    noise: (
        np.ndarray
    )  # float64 [NUM_SIZES]: how each distance's deviation from the line changes the value, times their number


def fid_infinity(
    real_features: FeatureArray,
    fake_features: FeatureArray,
    rng: Rng,
    progress: ProgressCallback | None = None,
) -> FidInfinity:
    """Extrapolate FID to infinitely many generated images.

    Args:
        real_features: [N, D], floating point, finite.
        fake_features: [M, D], of the same type and on the same device. M is larger than 10 D: with fewer images than
            dimensions in a subset, the bias is not proportional to 1/n.
        rng: NumPy RandomState or Generator, which draws the subsets.
        progress: Called with the finished subsets and their number.

    Raises:
        ValueError: The features are not usable, or there are too few fake ones.
    """
    real, fake = feature_pair(real_features, fake_features)
    smallest, dim = len(fake) // 10, fake.shape[1]
    if smallest <= dim:
        raise ValueError(
            f'FID∞ needs more than {10 * (dim + 1) - 1:,} generated images for features of {dim:,} dimensions, but '
            f'there are {len(fake):,}.'
        )
    sizes = np.linspace(smallest, len(fake), NUM_SIZES).round().astype(np.int64)
    step = StepCounter(NUM_SIZES, progress)
    distances = np.empty(NUM_SIZES)
    with accurate_matmul():
        moments_real = moments(real)
        for index, size in enumerate(sizes):
            subset = rng.choice(len(fake), size, replace=False)
            distances[index] = frechet_distance(*moments_real, *moments(fake[subset]))
            step()
    value, noise = _extend_line(1 / sizes, distances)
    return FidInfinity(value, sizes, distances, noise)


def _extend_line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the value of the least-squares line at 0, and each point's part in its deviation, times their number."""
    design = np.stack([np.ones_like(x), x], axis=1)  # [points, 2]
    solver = np.linalg.pinv(design)  # [2, points]
    residuals = y - design @ (solver @ y)
    return float(solver[0] @ y), len(x) * solver[0] * residuals * (len(x) / (len(x) - 2)) ** 0.5


def interval(
    found: FidInfinity,
    real_features: FeatureArray,
    fake_features: FeatureArray,
    num_resamples: int,
    rng: Rng,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval over other sets of as many images: to first order that of FID, and the scatter of the line.

    Args:
        found: Result of `fid_infinity`.
        real_features: See `fid_infinity`.
        fake_features: See `fid_infinity`.
        num_resamples: 20 or more.
        rng: NumPy RandomState or Generator.
        confidence: Fraction of the resamples inside the interval.
    """
    _distance, of_images = influences(real_features, fake_features)
    return bootstrap_interval(found.value, [*of_images, found.noise], num_resamples, rng, confidence)
