"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, arXiv 1904.06991), density and coverage (Naeem et
al., ICML 2020, arXiv 2002.09797): four answers from the same distances.

The manifold of a set is the union of balls around its vectors, each with the distance to the vector's k-th nearest
neighbour in the set as radius, the boundary included.

N real and M fake vectors of D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from metrics.feature_matrix import Features, Progress, compute_dtype, feature_pair, full_precision, spans

_BATCH_SIZE = 2048
_RESOLUTION = 16  # roundings, relative to a squared length, that a squared distance may suffer

# ---------------------------------------------------------------------------------------------------------------------
# The metrics


def precision_recall(
    real_features: Features,
    fake_features: Features,
    nhood_size: int = 3,
    row_batch_size: int = _BATCH_SIZE,
    col_batch_size: int = _BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """(precision, recall) of `manifold_metrics`, whose arguments these are."""
    values = manifold_metrics(real_features, fake_features, nhood_size, row_batch_size, col_batch_size, progress)
    return values['precision'], values['recall']


def manifold_metrics(
    real_features: Features,
    fake_features: Features,
    nhood_size: int = 3,
    row_batch_size: int = _BATCH_SIZE,
    col_batch_size: int = _BATCH_SIZE,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Precision, recall, density and coverage.

    precision: part of the fake vectors in the manifold of the real ones.
    recall:    part of the real vectors in the manifold of the fake ones.
    density:   mean number of real balls that a fake vector is in, over k.
    coverage:  part of the real balls that have a fake vector in them.

    Each distance is computed once: within a set for both of its vectors, between the sets for all four metrics.

    With float16 features the numbers are the published ones, in whose code squares, squared distances and distances
    have that type: three digits. All others are compared as float32 (float64) squares, and vectors whose squared
    distance float32 cannot tell from zero count as equal. Blocks of rows bound the memory: beside the features, of
    which blocks are converted, the default takes about 200 MB at 50,000 x 4096. Any device will do.

    Args:
        real_features:  [N, D], floating point, finite.
        fake_features:  [M, D], of the same type and on the same device.
        nhood_size:     k, less than N and M.
        row_batch_size: real vectors of a block of distances, and vectors of both sides within a set.
        col_batch_size: fake vectors of a block.
        progress:       called with (blocks done, their number).

    Raises:
        ValueError: features that are not such, too few for k, or too large for float16.
    """
    real, fake = (_Points.of(features) for features in feature_pair(real_features, fake_features))
    if nhood_size < 1 or min(len(real.rows), len(fake.rows)) <= nhood_size:
        raise ValueError(
            f'{len(real.rows)} real and {len(fake.rows)} fake feature vectors have no radius by nearest neighbour '
            f'{nhood_size}: take 1 or more, and more vectors of each than that.'
        )
    step = _Steps(len(real.rows), len(fake.rows), row_batch_size, col_batch_size, progress)
    with full_precision():
        limits = [_ball_limits(points, nhood_size, row_batch_size, step) for points in (real, fake)]
        inside = _count_inside(real, fake, *limits, row_batch_size, col_batch_size, step)
    return {
        'precision': int(inside.fake_in_real.sum()) / len(fake.rows),
        'recall': int(inside.real_in_fake.sum()) / len(real.rows),
        'density': inside.num_pairs / (nhood_size * len(fake.rows)),
        'coverage': int(inside.real_with_fake.sum()) / len(real.rows),
    }


class _Steps:
    """Counts blocks for the progress."""

    def __init__(self, num_real: int, num_fake: int, row_batch: int, col_batch: int, progress: Progress | None):
        real, fake = math.ceil(num_real / row_batch), math.ceil(num_fake / row_batch)
        self._total = real * (real + 1) // 2 + fake * (fake + 1) // 2 + real * math.ceil(num_fake / col_batch)
        self._done = 0
        self._progress = progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


# ---------------------------------------------------------------------------------------------------------------------
# Distances


@dataclass(frozen=True)
class _Points:
    """Vectors with their squared lengths."""

    rows: torch.Tensor  # [N, D], as given
    squares: torch.Tensor  # [N], of the type that is computed in
    half_precision: bool  # whether the published rounding to float16 applies

    @classmethod
    def of(cls, rows: torch.Tensor) -> _Points:
        squares = torch.cat([_squared_lengths(rows[span]) for span in spans(len(rows), _BATCH_SIZE)])
        return cls(rows, squares, rows.dtype == torch.float16)

    def block(self, span: slice) -> _Points:
        """Some of them, converted to what is computed in."""
        return _Points(self.rows[span].to(self.squares.dtype), self.squares[span], self.half_precision)


def _squared_lengths(rows: torch.Tensor) -> torch.Tensor:
    """[N]; of float16 vectors with float16 squares and sums, as published."""
    dtype = compute_dtype(rows.dtype)
    squares = rows.to(dtype).square()
    if rows.dtype != torch.float16:
        return squares.sum(dim=1)
    return _rounded_to_half(squares.half().to(dtype).sum(dim=1))


def _rounded_to_half(squares: torch.Tensor) -> torch.Tensor:
    """Float16 values as float32; ValueError beyond that type's range."""
    rounded = squares.half().to(squares.dtype)
    if not rounded.isfinite().all():
        raise ValueError(
            'The features are too large for the float16 arithmetic of the published metric, in which no square may '
            'exceed 65504: give them as float32.'
        )
    return rounded


def _squared_distances(a: _Points, b: _Points) -> torch.Tensor:
    """|x|² + |y|² - 2 x·y for all pairs: [rows of a, rows of b]."""
    distances = torch.addmm(b.squares, a.rows, b.rows.T, alpha=-2).add_(a.squares[:, None])
    if not a.half_precision:
        # Copies of an image have distance zero, not what rounding leaves.
        resolution = _RESOLUTION * torch.finfo(distances.dtype).eps
        distances.masked_fill_(distances <= resolution * a.squares[:, None], 0)
    return distances


def _ball_limits(points: _Points, nhood_size: int, batch_size: int, step: Callable[[], None]) -> torch.Tensor:
    """The largest squared distance from each vector that is within its ball: [N]."""
    nearest = points.squares.new_full([len(points.rows), nhood_size], torch.inf)
    blocks = spans(len(points.rows), batch_size)
    for index, rows in enumerate(blocks):
        block = points.block(rows)
        within = _squared_distances(block, block).fill_diagonal_(torch.inf)  # no vector is its own neighbour
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
    """Replaces `smallest` [N, k] by the k smallest of itself and `candidates` [N, M] in each row."""
    count = min(smallest.shape[1], candidates.shape[1])
    best = candidates.topk(count, dim=1, largest=False, sorted=False).values
    smallest.copy_(torch.cat([smallest, best], dim=1).topk(smallest.shape[1], largest=False, sorted=False).values)


# ---------------------------------------------------------------------------------------------------------------------
# Balls with float16 radii


def _half_precision_limits(squared_radii: torch.Tensor) -> torch.Tensor:
    """Largest float32 squares that are within radii [N] where squares and distances are rounded to float16.

    Rounding and roots are monotonic: half(sqrt(half(d²))) ≤ half(sqrt(half(r²))) holds up to some d², which is found
    once for each radius rather than rounding every distance.
    """
    roots, limits = (table.to(squared_radii.device) for table in _half_tables())
    radii = _rounded_to_half(_rounded_to_half(squared_radii).sqrt())
    return limits[torch.searchsorted(roots, radii, right=True) - 1]


@cache
def _half_tables() -> tuple[torch.Tensor, torch.Tensor]:
    """For all finite float16 squares, in order: their roots in float16, the largest float32 that is rounded to each."""
    squares = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).float()
    following = torch.cat([squares[1:], torch.tensor([65536.0])])
    middle = (squares + following) / 2
    # A number in the middle is rounded to the even one of its neighbours; the table alternates.
    even = torch.arange(len(squares)) % 2 == 0
    limits = torch.where(even, middle, torch.nextafter(middle, torch.zeros_like(middle)))
    return squares.sqrt().half().float(), limits


# ---------------------------------------------------------------------------------------------------------------------
# Between the sets


@dataclass
class _Inside:
    """Who is in whose balls."""

    fake_in_real: torch.Tensor  # bool [M]
    real_in_fake: torch.Tensor  # bool [N]
    real_with_fake: torch.Tensor  # bool [N]
    num_pairs: int  # fake vectors in real balls


def _count_inside(
    real: _Points,
    fake: _Points,
    real_limits: torch.Tensor,
    fake_limits: torch.Tensor,
    row_batch_size: int,
    col_batch_size: int,
    step: Callable[[], None],
) -> _Inside:
    nothing_of_real = torch.zeros([len(real.rows)], dtype=torch.bool, device=real.rows.device)
    nothing_of_fake = torch.zeros([len(fake.rows)], dtype=torch.bool, device=fake.rows.device)
    inside = _Inside(nothing_of_fake, nothing_of_real, nothing_of_real.clone(), 0)
    for rows in spans(len(real.rows), row_batch_size):
        block = real.block(rows)
        for columns in spans(len(fake.rows), col_batch_size):
            distances = _squared_distances(block, fake.block(columns))
            in_real_ball = distances <= real_limits[rows, None]
            inside.fake_in_real[columns] |= in_real_ball.any(dim=0)
            inside.real_with_fake[rows] |= in_real_ball.any(dim=1)
            inside.num_pairs += int(in_real_ball.count_nonzero())
            inside.real_in_fake[rows] |= (distances <= fake_limits[columns]).any(dim=1)
            step()
    return inside
