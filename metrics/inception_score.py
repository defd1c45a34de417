"""Inception score (Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, arXiv 1606.03498)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import xlogy

from metrics.batching import row_blocks
from metrics.feature_matrix import FeatureArray, as_matrix

_ROWS_AT_ONCE = 4096
_SUM_TOLERANCE = 1e-2  # for softmax in half precision


def inception_score(probs: FeatureArray, num_splits: int = 10) -> tuple[float, float]:
    """Return the mean and the standard deviation of the score over parts of the images.

    The score is exp of the mean Kullback–Leibler divergence of the class distributions p of images from their average
    q. It is computed in float64, as mean Σ p log p − Σ q log q. In addition to the probabilities, this needs 80 MB for
    1008 classes and any number of images.

    Args:
        probs: Class probabilities, floating-point [images, classes]; rows sum to 1.
        num_splits: Number of parts. The images are split in order, into parts of equal size (to one image).

    Returns:
        Mean and standard deviation (of the population) of the scores of the parts.

    Raises:
        ValueError: The values are not probabilities, or there are fewer images than parts.
    """
    scores = split_scores(probs, num_splits)
    return float(np.mean(scores)), float(np.std(scores))


def split_scores(probs: FeatureArray, num_splits: int = 10) -> list[float]:
    """Return the scores of the parts: see `inception_score`."""
    probs = as_matrix(probs, 'class probabilities')
    if not 1 <= num_splits <= len(probs):
        raise ValueError(f'{len(probs)} images cannot be split into {num_splits} parts. Use 1 to {len(probs)} parts.')
    bounds = [len(probs) * part // num_splits for part in range(num_splits + 1)]
    return [_score(probs, start, stop) for start, stop in zip(bounds, bounds[1:])]


def _score(probs: torch.Tensor, start: int, stop: int) -> float:
    """Return the score of the images from `start` to `stop` - 1."""
    marginal = np.zeros(probs.shape[1])
    negative_entropy = 0.0
    for rows in row_blocks(stop - start, _ROWS_AT_ONCE):
        p = probs[start + rows.start : start + rows.stop].cpu().double().numpy()
        _check_probabilities(p, start + rows.start)
        marginal += p.sum(axis=0)
        negative_entropy += xlogy(p, p).sum()
    marginal /= stop - start
    return float(np.exp(negative_entropy / (stop - start) - xlogy(marginal, marginal).sum()))


def _check_probabilities(p: np.ndarray, first_image: int) -> None:
    valid = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not valid.all():
        raise ValueError(
            f'The class probabilities of image {first_image + int(np.argmin(valid))} are not numbers from 0 to 1 that '
            'sum to 1. Use the output of a softmax.'
        )
