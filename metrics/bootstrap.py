"""Bootstrap intervals of statistics that are, to first order, means over their samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.feature_matrix import ProgressCallback

Rng = np.random.RandomState | np.random.Generator


def bootstrap_interval(
    value: float,
    influences: Sequence[np.ndarray],
    num_resamples: int,
    rng: Rng,
    confidence: float = 0.95,
    progress: ProgressCallback | None = None,
) -> tuple[float, float]:
    """Return the percentile interval around `value` from resampled influences.

    The influence of a sample is the first-order change of the statistic with the weight of the sample, times the number
    of samples (Efron and Tibshirani, "An introduction to the bootstrap", chapters 21 and 22). When the samples are
    resampled with replacement, the statistic changes by the mean influence of the resample. The statistic itself is
    never recomputed, so the bias that it would have on repeated samples does not enter.

    Args:
        value: The statistic.
        influences: One float array [N] for each independent set of samples. Its mean is subtracted.
        num_resamples: Number of resamples of each set, 20 or more.
        rng: NumPy RandomState or Generator.
        confidence: Fraction of the resamples inside the interval.
        progress: Called with the number of finished resamples and `num_resamples`.

    Raises:
        ValueError: There are too few resamples, or the confidence is not between 0 and 1.
    """
    if num_resamples < 20:
        raise ValueError(
            f'{num_resamples} resamples are too few for an interval. Use 20 or more, and 1000 for two digits.'
        )
    if not 0 < confidence < 1:
        raise ValueError(f'A confidence of {confidence} is not between 0 and 1. Use a value such as 0.95.')
    centered = [influence - influence.mean() for influence in influences]
    changes = np.empty(num_resamples)
    for index in range(num_resamples):
        changes[index] = sum(influence[rng.choice(len(influence), len(influence))].mean() for influence in centered)
        if progress is not None:
            progress(index + 1, num_resamples)
    outside = 50 * (1 - confidence)
    low, high = np.percentile(changes, [outside, 100 - outside])
    return float(value + low), float(value + high)
