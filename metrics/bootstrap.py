"""Bootstrap intervals of statistics that are, to first order, means over their samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metrics.feature_matrix import Progress

Rng = np.random.RandomState | np.random.Generator


def bootstrap_interval(
    value: float,
    influences: Sequence[np.ndarray],
    num_resamples: int,
    rng: Rng,
    confidence: float = 0.95,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Percentile interval about `value` from resampled influences.

    The influence of a sample is the first-order change of the statistic with the sample's weight, times the number of
    samples (Efron and Tibshirani, "An introduction to the bootstrap", chapters 21 and 22). Where samples are drawn
    again with replacement, the statistic changes by the mean influence of those drawn. No resample computes the
    statistic anew, and the bias that it would have on repeated samples does not enter.

    Args:
        value:         the statistic.
        influences:    one float array [N] for each independent set of samples; what is not zero mean counts as such.
        num_resamples: how often each set is drawn again, 20 or more.
        rng:           numpy RandomState or Generator.
        confidence:    part of the resamples inside the interval.
        progress:      called with (resamples done, their number).

    Raises:
        ValueError: too few resamples, or a confidence that is not between 0 and 1.
    """
    if num_resamples < 20:
        raise ValueError(f'{num_resamples} resamples give no interval: take 20 or more, 1000 for two digits.')
    if not 0 < confidence < 1:
        raise ValueError(f'A confidence of {confidence} gives no interval: take one between 0 and 1, such as 0.95.')
    centered = [influence - influence.mean() for influence in influences]
    changes = np.empty(num_resamples)
    for index in range(num_resamples):
        changes[index] = sum(influence[rng.choice(len(influence), len(influence))].mean() for influence in centered)
        if progress is not None:
            progress(index + 1, num_resamples)
    outside = 50 * (1 - confidence)
    low, high = np.percentile(changes, [outside, 100 - outside])
    return float(value + low), float(value + high)
