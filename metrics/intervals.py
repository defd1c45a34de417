"""Confidence intervals of shares, means and medians, for the metrics whose values are one of these."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, bdtrik, betaincinv, stdtrit

Interval = tuple[float, float]


def share_interval(count: int, total: int, confidence: float = 0.95) -> Interval:
    """Return the interval of Clopper and Pearson ("The use of confidence or fiducial limits", Biometrika 1934).

    Args:
        count: Images that have a property.
        total: All images, 1 or more.
        confidence: Coverage, at least.
    """
    tail = (1 - confidence) / 2
    low = betaincinv(count, total - count + 1, tail) if count > 0 else 0
    high = betaincinv(count + 1, total - count, 1 - tail) if count < total else 1
    return float(low), float(high)


def mean_interval(values: np.ndarray | Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return Student's interval of the mean of values [N]; None for a single one, which does not say how they vary."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    error = values.std(ddof=1) / math.sqrt(len(values)) * stdtrit(len(values) - 1, (1 + confidence) / 2)
    return float(values.mean() - error), float(values.mean() + error)


def interval_around(value: float, influences: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return the interval of a statistic from its first-order change with the weight of each sample, as for a mean.

    Args:
        value: The statistic.
        influences: As for `metrics.bootstrap.bootstrap_interval`, [N].
        confidence: Coverage.
    """
    spread = mean_interval(influences, confidence)
    if spread is None:
        return None
    half = (spread[1] - spread[0]) / 2
    return value - half, value + half


def median_interval(values: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Return the interval of the median between two of the values [N], which no distribution can fool.

    None if there are too few values: the smallest and the largest one enclose the median too rarely.
    """
    # How many of the values are below the median has a binomial distribution: `rank` is its quantile.
    tail = (1 - confidence) / 2
    rank = math.ceil(bdtrik(tail, len(values), 0.5))
    if rank > 0 and bdtr(rank - 1, len(values), 0.5) >= tail:
        rank -= 1
    if rank < 1:
        return None
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[-rank])
