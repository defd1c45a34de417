"""Memorization: the share of generated images that are copies of training images.

A generated image is compared with its nearest training image. The distance between them is divided by the distance
from that training image to its own nearest neighbor in the training set, because images are near to each other in some
places and far apart in others. The ratio is 0 for an exact copy, and around 1 for a new image of the same kind.

Which ratios are too small for a new image? Images that were held out of the training are new for certain. The threshold
is a low quantile of their ratios. Generated images below it are counted, and as many are subtracted as a generator
without copies would be expected to have there. Without held-out images, each training image takes a turn as one: it is
compared with all others, as if it had been left out.

The idea of comparing with held-out images in this way is from Meehan, Chaudhuri and Dasgupta, "A non-parametric test to
detect data-copying in generative models" (AISTATS 2020, arXiv 2004.05675). Intervals are of Clopper and Pearson ("The
use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 1934).

N training images, M generated ones, V held-out ones, D dimensions of a feature vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv

from metrics.batching import row_blocks
from metrics.feature_matrix import (
    FeatureArray,
    ProgressCallback,
    StepCounter,
    accurate_matmul,
    as_matrix,
    compute_dtype,
    to_float64,
)

FALSE_POSITIVE_RATE = 0.01  # of new images, which are below the threshold
_ROWS_AT_ONCE = 2048
_MAX_ROUNDINGS = 16  # rounding errors of a squared distance, relative to the squared lengths of both vectors
_NUM_CANDIDATES = 3  # for two neighbors: one may be the mirror image of another
_QUANTILES = (np.arange(500) + 0.5) / 500

# ---------------------------------------------------------------------------------------------------------------------
# The share of copies


@dataclass(frozen=True)
class Memorization:
    """How near generated images are to training images."""

    share: float  # of copies among the generated images, without those that are expected of new images
    low: float  # lower end of its confidence interval
    high: float  # upper end
    threshold: float  # a copy has this ratio or a smaller one
    nearest: np.ndarray  # int64 [M]: index of the nearest training image
    ratios: np.ndarray  # float64 [M]: of generated images
    new_ratios: np.ndarray  # float64 [V], or [N] without held-out images: the ratios of images that cannot be copies


def memorization(
    training: FeatureArray,
    generated: FeatureArray,
    held_out: FeatureArray | None = None,
    num_mirrored: int = 0,
    confidence: float = 0.95,
    progress: ProgressCallback | None = None,
) -> Memorization:
    """Compare generated images with training images.

    Distances are Euclidean. The nearest images are found in float32 (float64 for float64 features), and the distances
    to them computed in float64. In addition to the features, this needs less than 100 MB at 50,000 x 2048. The features
    may be on any device.

    Args:
        training: Features [N, D], floating point, finite.
        generated: Features [M, D].
        held_out: Features [V, D] of images that were not trained on. None: training images take turns.
        num_mirrored: Number of rows at the end of `training` that are the mirror images of the first ones, in the same
            order. An image and its mirror image are not neighbors of each other.
        confidence: Coverage of the interval.
        progress: Called with the finished blocks and their number.

    Raises:
        ValueError: The features are not usable, or there are too few different training images.
    """
    arrays = {'training': training, 'generated': generated, 'held-out': held_out}
    matrices = {kind: as_matrix(x, f'features of {kind} images') for kind, x in arrays.items() if x is not None}
    if len({(x.shape[1], x.dtype, x.device) for x in matrices.values()}) > 1:
        raise ValueError('The features have different dimensions or types. Use the same detector for all images.')
    with accurate_matmul():
        center = _mean(matrices['training'])
        points = {kind: _Points.of(x, center) for kind, x in matrices.items()}
        num_training, num_turns = len(training), len(training) - num_mirrored
        num_new = num_turns if held_out is None else len(held_out)
        step = StepCounter(_num_steps(num_training, [num_training, len(generated), num_new]), progress)
        neighbors = _TrainingNeighbors(points['training'], num_mirrored, held_out is None, step)
        nearest, ratios = neighbors.ratios(points['generated'])
        new_ratios = neighbors.ratios_of_turns() if held_out is None else neighbors.ratios(points['held-out'])[1]
    threshold = _threshold(new_ratios)
    num_below, num_new_below = (int((x <= threshold).sum()) for x in (ratios, new_ratios))
    share = _share(num_below / len(ratios), num_new_below / (len(new_ratios) + 1))
    # Two training images that are near to each other have small ratios both, so turns count as half as many images.
    divisor = 2 if held_out is None else 1
    new_counts = -(-num_new_below // divisor), -(-len(new_ratios) // divisor)
    low, high = share_of_copies_interval(num_below, len(ratios), *new_counts, confidence)
    return Memorization(float(np.clip(share, low, high)), low, high, threshold, nearest, ratios, new_ratios)


def _threshold(new_ratios: np.ndarray) -> float:
    """Return the smallest ratio that at least the share `FALSE_POSITIVE_RATE` of new images does not exceed."""
    rank = max(int(FALSE_POSITIVE_RATE * len(new_ratios)), 1)
    return float(np.partition(new_ratios, rank - 1)[rank - 1])


def _share(below: np.ndarray | float, new_below: np.ndarray | float) -> np.ndarray | float:
    """Return the share c of copies for which `below` = c + (1 - c) `new_below`; not less than 0."""
    return np.clip((below - new_below) / np.maximum(1 - new_below, 1e-12), 0, 1)


def share_of_copies_interval(
    num_below: int, num_generated: int, num_new_below: int, num_new: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of the share of copies.

    Both the share of generated images below the threshold and that of new images are known from finite numbers only.
    Each varies as its Clopper–Pearson limit does over all confidence levels, which makes the interval somewhat too wide
    rather than too narrow. If fewer generated images than new ones are below the threshold, the difference says nothing
    about small shares: the upper end is then that of a sample of this size without any copy.

    Args:
        num_below: Generated images below the threshold.
        num_generated: Number of generated images.
        num_new_below: New images below the threshold.
        num_new: Number of new images.
        confidence: Coverage of the interval.
    """
    tail = (1 - confidence) / 2
    lowest = _share(
        _beta_quantiles(num_below, num_generated - num_below + 1)[:, None],
        _beta_quantiles(num_new_below + 1, num_new - num_new_below),
    )
    highest = _share(
        _beta_quantiles(num_below + 1, num_generated - num_below)[:, None],
        _beta_quantiles(num_new_below, num_new - num_new_below + 1),
    )
    high_without_copies = 1 - tail ** (1 / num_generated)
    return float(np.quantile(lowest, tail)), float(max(np.quantile(highest, 1 - tail), high_without_copies))


def _beta_quantiles(a: int, b: int) -> np.ndarray:
    """Return quantiles at equal steps; a distribution whose parameter is 0 is concentrated at 0 (a) or 1 (b)."""
    if a == 0 or b == 0:
        return np.full(len(_QUANTILES), float(b == 0))
    return betaincinv(a, b, _QUANTILES)


# ---------------------------------------------------------------------------------------------------------------------
# Ratios of distances


class _TrainingNeighbors:
    """The neighbors of training images in the training set.

    Args:
        training: Training images.
        num_mirrored: See `memorization`.
        needs_turns: Whether `ratios_of_turns` will be called.
        step: Called after each block of distances.
    """

    def __init__(self, training: _Points, num_mirrored: int, needs_turns: bool, step: Callable[[], object]):
        self._training, self._step = training, step
        self._count = len(training.rows) - num_mirrored
        # Row i is a picture of this image. Mirror images are pictures of the same one.
        self._images = np.arange(len(training.rows)) % self._count
        self._others, self._distances = self._two_neighbors()
        num_required = 3 if needs_turns else 2
        if not np.isfinite(self._distances[:, : num_required - 1]).all():
            raise ValueError(
                f'Memorization needs {num_required} training images or more that differ from each other'
                + (', or held-out images.' if needs_turns else '.')
            )

    def ratios(self, queries: _Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of the nearest training image, int64 [M], and the ratio, float64 [M]."""
        nearest = _nearest(queries, self._training, 1, self._step).indices[:, 0]
        distances = _distances(queries, np.arange(len(nearest)), self._training, nearest)
        return nearest, distances / self._distances[nearest, 0]

    def ratios_of_turns(self) -> np.ndarray:
        """Return the ratio of each training image (not of mirror images) to all others: float64 [N]."""
        turns = self._training.first(self._count)
        nearest = _nearest(turns, self._training, 1, self._step, self._images).indices[:, 0]
        distances = _distances(self._training, np.arange(self._count), self._training, nearest)
        # The neighbor of the nearest image must not be the image whose turn it is.
        which = (self._others[nearest, 0] == np.arange(self._count)).astype(np.int64)
        return distances / self._distances[nearest, which]

    def _two_neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the two nearest images of each row that are not equal to it.

        Returns:
            Numbers of the images int64 [N, 2], and distances float64 [N, 2], infinite where there are fewer neighbors.
        """
        candidates = _nearest(self._training, self._training, _NUM_CANDIDATES, self._step, self._images, unequal=True)
        rows = np.arange(len(self._images))
        distances = np.stack(
            [_distances(self._training, rows, self._training, column) for column in candidates.indices.T], axis=1
        )
        distances[~np.isfinite(candidates.squares)] = np.inf
        images = self._images[candidates.indices]
        # The second one is the first candidate that is another image: one may be the mirror image of the first one.
        second = 1 + (images[:, 1:] != images[:, :1]).argmax(axis=1) if images.shape[1] > 1 else np.zeros_like(rows)
        is_other = images[rows, second] != images[:, 0]
        second_distances = np.where(is_other, distances[rows, second], np.inf)
        return (
            np.stack([images[:, 0], images[rows, second]], axis=1),
            np.stack([distances[:, 0], second_distances], axis=1),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Distances


@dataclass(frozen=True)
class _Points:
    """Vectors, and their squared lengths after centering, which makes rounding errors small."""

    rows: torch.Tensor  # [N, D], as given
    center: torch.Tensor  # [D]
    squares: torch.Tensor  # [N]

    @classmethod
    def of(cls, rows: torch.Tensor, center: torch.Tensor) -> _Points:
        """Return the vectors with their squared lengths."""
        blocks = row_blocks(len(rows), _ROWS_AT_ONCE)
        return cls(rows, center, torch.cat([_centered(rows[span], center).square().sum(dim=1) for span in blocks]))

    def first(self, count: int) -> _Points:
        """Return the first vectors."""
        return _Points(self.rows[:count], self.center, self.squares[:count])


def _centered(rows: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return rows.to(center.dtype) - center


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Return the mean [D] in the type for computations."""
    sums = [to_float64(rows[span]).sum(dim=0) for span in row_blocks(len(rows), _ROWS_AT_ONCE)]
    return (torch.stack(sums).sum(dim=0) / len(rows)).to(rows.device, compute_dtype(rows.dtype))


class _Nearest(NamedTuple):
    """The nearest vectors of each vector, nearest first."""

    indices: np.ndarray  # int64 [M, k]
    squares: np.ndarray  # float [M, k]: squared distances, not exact near zero; infinity where there are fewer vectors


def _nearest(
    queries: _Points,
    training: _Points,
    num_nearest: int,
    step: Callable[[], object],
    images: np.ndarray | None = None,
    unequal: bool = False,
) -> _Nearest:
    """Find the nearest training vectors.

    Args:
        queries: [M, D].
        training: [N, D].
        num_nearest: k.
        step: Called after each block of distances.
        images: If the queries are the first M training vectors: int64 [N], which image each training vector belongs
            to. Vectors of the query's own image are skipped.
        unequal: Skip vectors that equal the query up to rounding.
    """
    numbers = None if images is None else torch.from_numpy(images).to(training.rows.device)
    found = []
    for rows in row_blocks(len(queries.rows), _ROWS_AT_ONCE):
        block = _centered(queries.rows[rows], queries.center)
        best_squares, best_indices = block.new_empty([len(block), 0]), block.new_empty([len(block), 0]).long()
        for columns in row_blocks(len(training.rows), _ROWS_AT_ONCE):
            others = _centered(training.rows[columns], training.center)
            lengths = queries.squares[rows, None] + training.squares[columns]
            squares = torch.addmm(lengths, block, others.T, alpha=-2)
            if unequal:
                squares[squares <= _MAX_ROUNDINGS * torch.finfo(squares.dtype).eps * lengths] = torch.inf
            if numbers is not None:
                squares[numbers[rows, None] == numbers[columns]] = torch.inf
            best = squares.topk(min(num_nearest, squares.shape[1]), largest=False)
            best_squares = torch.cat([best_squares, best.values], dim=1)
            best_indices = torch.cat([best_indices, best.indices + columns.start], dim=1)
            kept = best_squares.topk(min(num_nearest, best_squares.shape[1]), largest=False)
            best_squares, best_indices = kept.values, best_indices.gather(1, kept.indices)
            step()
        found.append((best_indices.cpu().numpy(), best_squares.cpu().numpy()))
    return _Nearest(*(np.concatenate(parts) for parts in zip(*found)))


def _distances(a: _Points, rows: np.ndarray, b: _Points, other_rows: np.ndarray) -> np.ndarray:
    """Return the distances between pairs of vectors: float64 [pairs]."""
    parts = []
    for span in row_blocks(len(rows), _ROWS_AT_ONCE):
        indices, other_indices = (torch.from_numpy(x[span]).to(a.rows.device) for x in (rows, other_rows))
        parts.append((to_float64(a.rows[indices]) - to_float64(b.rows[other_indices])).square().sum(dim=1).sqrt())
    return torch.cat(parts).cpu().numpy()


def _num_steps(num_training: int, num_queries: list[int]) -> int:
    """Return the number of blocks of distances from vectors of these numbers to all training images."""
    columns = len(row_blocks(num_training, _ROWS_AT_ONCE))
    return columns * sum(len(row_blocks(count, _ROWS_AT_ONCE)) for count in num_queries)
