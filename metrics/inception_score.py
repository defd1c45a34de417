"""Inception score (Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, arXiv 1606.03498)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import xlogy

from metrics.feature_matrix import Features, as_matrix, spans

_ROWS_AT_ONCE = 4096
_SUM_TOLERANCE = 1e-2  # half-precision softmax


def inception_score(probs: Features, num_splits: int = 10) -> tuple[float, float]:
    """exp of the mean Kullback–Leibler divergence of the images' class distributions from their average.

    Computed in float64, by KL(p‖q) averaged over p with mean q = mean Σ p log p − Σ q log q. Beside the probabilities
    it takes 80 MB for 1008 classes, whatever the number of images.

    Args:
        probs:      class probabilities, floating-point [images, classes]; rows sum to 1.
        num_splits: the images, in their order, are split into so many parts of equal size (to one image).

    Returns:
        Mean and standard deviation (of the population) of the parts' scores.

    Raises:
        ValueError: probabilities that are none, or fewer images than parts.
    """
    probs = as_matrix(probs, 'class probabilities')
    if not 1 <= num_splits <= len(probs):
        raise ValueError(f'{len(probs)} images cannot be split into {num_splits} parts: take 1 to {len(probs)}.')
    bounds = [len(probs) * part // num_splits for part in range(num_splits + 1)]
    scores = [_score(probs, start, stop) for start, stop in zip(bounds, bounds[1:])]
    return float(np.mean(scores)), float(np.std(scores))


def _score(probs: torch.Tensor, start: int, stop: int) -> float:
    """Of the images `start` … `stop` - 1."""
    marginal = np.zeros(probs.shape[1])
    negative_entropy = 0.0
    for rows in spans(stop - start, _ROWS_AT_ONCE):
        p = probs[start + rows.start : start + rows.stop].cpu().double().numpy()
        _check(p, start + rows.start)
        marginal += p.sum(axis=0)
        negative_entropy += xlogy(p, p).sum()
    marginal /= stop - start
    return float(np.exp(negative_entropy / (stop - start) - xlogy(marginal, marginal).sum()))


def _check(p: np.ndarray, first_image: int) -> None:
    fits = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not fits.all():
        raise ValueError(
            f'The class probabilities of image {first_image + int(np.argmin(fits))} are not numbers from 0 to 1 whose '
            'sum is 1: give the outputs of a softmax.'
        )
