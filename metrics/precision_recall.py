"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, arXiv 1904.06991), density and coverage (Naeem et
al., ICML 2020, arXiv 2002.09797): four metrics from the same distances.

The manifold of a set is the union of closed balls around its vectors. The radius of each ball is the distance from the
vector to its k-th nearest neighbor in the set.

N real and M fake vectors of D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from metrics.batching import row_blocks
from metrics.feature_matrix import (
    FeatureArray,
    ProgressCallback,
    StepCounter,
    accurate_matmul,
    compute_dtype,
    feature_pair,
)

_BATCH_SIZE = 2048
_MAX_ROUNDINGS = 16  # rounding errors of a squared distance, relative to the squared length of a vector

# ---------------------------------------------------------------------------------------------------------------------
# The metrics


def precision_recall(
    real_features: FeatureArray, fake_features: FeatureArray, *args: Any, **kwargs: Any
) -> tuple[float, float]:
    """Return (precision, recall). Further arguments are those of `manifold_metrics`."""
    values = manifold_metrics(real_features, fake_features, *args, **kwargs)
    return values['precision'], values['recall']


def manifold_metrics(
    real_features: FeatureArray, fake_features: FeatureArray, nhood_size: int = 3, *args: Any, **kwargs: Any
) -> dict[str, float]:
    """Return precision, recall, density and coverage by name. Further arguments are those of `manifold_values`."""
    found = manifold_values(real_features, fake_features, nhood_size, *args, **kwargs)
    return {
        name: int(values.sum()) / (len(values) * (nhood_size if name == 'density' else 1))
        for name, values in found.items()
    }


def manifold_values(
    real_features: FeatureArray,
    fake_features: FeatureArray,
    nhood_size: int = 3,
    row_batch_size: int = _BATCH_SIZE,
    col_batch_size: int = _BATCH_SIZE,
    progress: ProgressCallback | None = None,
) -> dict[str, np.ndarray]:
    """Return what each of the four metrics is the mean of, by name.

    precision: fraction of the fake vectors that are in the manifold of the real ones.
    recall: fraction of the real vectors that are in the manifold of the fake ones.
    density: mean number of real balls that contain a fake vector, over k.
    coverage: fraction of the real balls that contain a fake vector.

    Each distance is computed once: within a set for both of its vectors, between the sets for all four metrics.

    With float16 features, the values equal the published ones: as in the published code, squares, squared distances and
    distances are rounded to float16 (three digits). Other features are compared as float32 (float64) squares, and
    vectors are equal if float32 cannot distinguish their squared distance from zero. Blocks of rows limit the memory:
    in addition to the features, the defaults need about 200 MB at 50,000 x 4096. The features may be on any device.

    Args:
        real_features: [N, D], floating point, finite.
        fake_features: [M, D], of the same type and on the same device.
        nhood_size: k, less than N and M.
        row_batch_size: Real vectors in a block of distances; within a set, vectors on both sides.
        col_batch_size: Fake vectors in a block.
        progress: Called with the finished blocks and their number.

    Returns:
        For the precision bool [M], recall and coverage bool [N], and for the density int64 [M]: the number of balls,
        which is still to be divided by k.

    Raises:
        ValueError: The features are not usable, too few for k, or too large for float16.
    """
    real, fake = (_Points.of(features) for features in feature_pair(real_features, fake_features))
    if nhood_size < 1 or min(len(real.rows), len(fake.rows)) <= nhood_size:
        raise ValueError(
            f'{len(real.rows)} real and {len(fake.rows)} fake feature vectors are too few for nearest neighbor number '
            f'{nhood_size}, which must be 1 or more and less than the number of vectors of each kind.'
        )
    step = StepCounter(_num_steps(len(real.rows), len(fake.rows), row_batch_size, col_batch_size), progress)
    with accurate_matmul():
        real_limits = _ball_limits(real, nhood_size, row_batch_size, step)
        fake_limits = _ball_limits(fake, nhood_size, row_batch_size, step)
        inside = _count_inside(real, fake, real_limits, fake_limits, row_batch_size, col_batch_size, step)
    return {
        'precision': inside.fake_in_real.cpu().numpy(),
        'recall': inside.real_in_fake.cpu().numpy(),
        'density': inside.balls_of_fake.cpu().numpy(),
        'coverage': inside.real_with_fake.cpu().numpy(),
    }


def _num_steps(num_real: int, num_fake: int, row_batch: int, col_batch: int) -> int:
    """Return the number of blocks of distances."""
    real, fake = math.ceil(num_real / row_batch), math.ceil(num_fake / row_batch)
    return real * (real + 1) // 2 + fake * (fake + 1) // 2 + real * math.ceil(num_fake / col_batch)


# ---------------------------------------------------------------------------------------------------------------------
# Distances


@dataclass(frozen=True)
class _Points:
    """Vectors with their squared lengths."""

    rows: torch.Tensor  # [N, D], as given
    squares: torch.Tensor  # [N], in the type for computations
    half_precision: bool  # whether results are rounded to float16, as published

    @classmethod
    def of(cls, rows: torch.Tensor) -> _Points:
        """Return the vectors with their squared lengths."""
        squares = torch.cat([_squared_lengths(rows[span]) for span in row_blocks(len(rows), _BATCH_SIZE)])
        return cls(rows, squares, rows.dtype == torch.float16)

    def block(self, span: slice) -> _Points:
        """Return some of them, converted to the type for computations."""
        return _Points(self.rows[span].to(self.squares.dtype), self.squares[span], self.half_precision)


def _squared_lengths(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared lengths [N]; for float16 vectors with squares and sums in float16, as published."""
    dtype = compute_dtype(rows.dtype)
    squares = rows.to(dtype).square()
    if rows.dtype != torch.float16:
        return squares.sum(dim=1)
    return _rounded_to_half(squares.half().to(dtype).sum(dim=1))


def _rounded_to_half(squares: torch.Tensor) -> torch.Tensor:
    """Round to float16 and return as float32; raise ValueError beyond the range of float16."""
    rounded = squares.half().to(squares.dtype)
    if not rounded.isfinite().all():
        raise ValueError(
            'The features are too large for the float16 arithmetic of the published metric, in which no square may '
            'exceed 65504. Use float32 features.'
        )
    return rounded


def _squared_distances(a: _Points, b: _Points) -> torch.Tensor:
    """Return |x|² + |y|² - 2 x·y for all pairs: [rows of a, rows of b]."""
    distances = torch.addmm(b.squares, a.rows, b.rows.T, alpha=-2).add_(a.squares[:, None])
    if not a.half_precision:
        # The distance between copies of an image is zero, whatever remains after rounding.
        noise = _MAX_ROUNDINGS * torch.finfo(distances.dtype).eps
        distances.masked_fill_(distances <= noise * a.squares[:, None], 0)
    return distances


def _ball_limits(points: _Points, nhood_size: int, batch_size: int, step: Callable[[], None]) -> torch.Tensor:
    """Return the largest squared distance [N] from each vector that is inside its ball."""
    nearest = points.squares.new_full([len(points.rows), nhood_size], torch.inf)
    blocks = row_blocks(len(points.rows), batch_size)
    for index, rows in enumerate(blocks):
        block = points.block(rows)
        within = _squared_distances(block, block).fill_diagonal_(torch.inf)  # no vector is its own neighbor
        _keep_smallest(nearest[rows], within)
        step()
        for columns in blocks[index + 1 :]:
            distances = _squared_distances(block, points.block(columns))
            _keep_smallest(nearest[rows], distances)
            _keep_smallest(nearest[columns], distances.T)
            step()
    squared_radii = nearest.amax(dim=1).clamp_min_(0)
    return _half_precision_limits(squared_radii) if points.half_precision else squared_radii


def _keep_smallest(smallest: torch.Tensor, candidates: torch.Tensor) -> None:
    """Replace each row of `smallest` [N, k] with the k smallest numbers in it and in `candidates` [N, M]."""
    count = min(smallest.shape[1], candidates.shape[1])
    best = candidates.topk(count, dim=1, largest=False, sorted=False).values
    smallest.copy_(torch.cat([smallest, best], dim=1).topk(smallest.shape[1], largest=False, sorted=False).values)


# ---------------------------------------------------------------------------------------------------------------------
# Balls with float16 radii


def _half_precision_limits(squared_radii: torch.Tensor) -> torch.Tensor:
    """Return the largest float32 squares [N] that are inside the radii after squares and distances are rounded.

    Rounding to float16 and roots are monotonic, so half(sqrt(half(d²))) ≤ half(sqrt(half(r²))) holds up to some d². To
    find it once for each radius is cheaper than to round every distance.
    """
    roots, limits = (table.to(squared_radii.device) for table in _half_tables())
    radii = _rounded_to_half(_rounded_to_half(squared_radii).sqrt())
    return limits[torch.searchsorted(roots, radii, right=True) - 1]


@cache
def _half_tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for all finite float16 squares in order, their float16 roots and the largest float32 rounded to each."""
    squares = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).float()
    following = torch.cat([squares[1:], torch.tensor([65536.0])])
    middle = (squares + following) / 2
    # A number in the middle is rounded to the even one of its neighbors. Even and odd ones alternate in the table.
    even = torch.arange(len(squares)) % 2 == 0
    limits = torch.where(even, middle, torch.nextafter(middle, torch.zeros_like(middle)))
    return squares.sqrt().half().float(), limits


# ---------------------------------------------------------------------------------------------------------------------
# Between the sets


@dataclass
class _Inside:
    """Which vectors are inside balls of the other set."""

    fake_in_real: torch.Tensor  # bool [M]
    real_in_fake: torch.Tensor  # bool [N]
    real_with_fake: torch.Tensor  # bool [N]: whether the ball contains a fake vector
    balls_of_fake: torch.Tensor  # int64 [M]: number of real balls that contain it


def _count_inside(
    real: _Points,
    fake: _Points,
    real_limits: torch.Tensor,
    fake_limits: torch.Tensor,
    row_batch_size: int,
    col_batch_size: int,
    step: Callable[[], None],
) -> _Inside:
    no_real = torch.zeros([len(real.rows)], dtype=torch.bool, device=real.rows.device)
    no_fake = torch.zeros([len(fake.rows)], dtype=torch.bool, device=fake.rows.device)
    inside = _Inside(no_fake, no_real, no_real.clone(), no_fake.long())
    for rows in row_blocks(len(real.rows), row_batch_size):
        block = real.block(rows)
        for columns in row_blocks(len(fake.rows), col_batch_size):
            distances = _squared_distances(block, fake.block(columns))
            in_real_ball = distances <= real_limits[rows, None]
            inside.fake_in_real[columns] |= in_real_ball.any(dim=0)
            inside.real_with_fake[rows] |= in_real_ball.any(dim=1)
            inside.balls_of_fake[columns] += in_real_ball.sum(dim=0)
            inside.real_in_fake[rows] |= (distances <= fake_limits[columns]).any(dim=1)
            step()
    return inside
