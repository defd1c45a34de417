"""Kernel inception distance (Bińkowski et al., "Demystifying MMD GANs", ICLR 2018, arXiv 1801.01401).

The squared maximum mean discrepancy with the cubic kernel k(x, y) = (x·y / D + 1)³, by its unbiased estimator
(Gretton et al., JMLR 2012, eq. 3).

N real and M fake vectors of D dimensions, S subsets of m vectors each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch

from metrics.bootstrap import Rng, bootstrap_interval
from metrics.feature_matrix import Features, Progress, compute_dtype, feature_pair, full_precision, spans

# Rows of a block of kernel values: products run at full speed, and those of a CPU stay in its cache.
_BLOCK_ROWS_CPU, _BLOCK_ROWS_ACCELERATOR = 1024, 4096
_ROWS_FOR_LEVEL = 1000

# ---------------------------------------------------------------------------------------------------------------------
# The distance


def kid(
    real_features: Features,
    fake_features: Features,
    num_subsets: int = 100,
    max_subset_size: int = 1000,
    rng: Rng | None = None,
    progress: Progress | None = None,
) -> float:
    """Mean of the unbiased estimates over random subsets, as published.

    For each subset, m = min(N, M, max_subset_size) fake vectors are drawn and then m real ones, each by
    `rng.choice(count, m, replace=False)`: a RandomState gives the draws of the published code under the same seed.

    Products are float32 (float64 where the features are). A typical kernel value is subtracted before anything is
    summed, and sums are float64, so that rounding errors average out: the error is about 1e-7 of a kernel value for a
    handful of vectors, 1e-8 for hundreds, and less for more, against 1e-7 where all is summed in float32. Beside the
    features it takes less than 100 MB at 50,000 x 2048. The features may be on any device.

    Args:
        real_features:   [N, D], floating point, finite.
        fake_features:   [M, D], of the same type and on the same device.
        num_subsets:     S.
        max_subset_size: largest m.
        rng:             numpy RandomState or Generator; None draws differently every time.
        progress:        called with (work done, all work).

    Raises:
        ValueError: features that are not such, fewer than two of a kind, or no subsets.
    """
    return float(_subset_estimates(real_features, fake_features, num_subsets, max_subset_size, rng, progress).mean())


def kid_unbiased(real_features: Features, fake_features: Features, progress: Progress | None = None) -> float:
    """The unbiased estimate from all pairs of vectors; arguments, precision and memory as those of `kid`."""
    real, fake = _at_least_two(real_features, fake_features)
    ones = [torch.ones([len(features), 1], device=features.device) for features in (real, fake)]
    with full_precision():
        return float(_estimates(real, fake, *ones, _typical_kernel(real, fake), progress)[0])


def bootstrap(
    features_real: Features,
    features_fake: Features,
    num_resamples: int,
    rng: Rng,
    num_subsets: int = 100,
    max_subset_size: int = 1000,
    confidence: float = 0.95,
    max_compared: int = 5000,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """Interval of `kid` over other images of the same kind, and other subsets of them.

    The subsets are drawn first: with `rng` in the state that `kid` was given, the interval is about its very value.
    The influence of an image is twice the difference of its mean kernel values with its own and with the other set
    (the projection of Serfling, "Approximation theorems of mathematical statistics", section 5.3.2), over at most
    `max_compared` vectors of each, 5000 of 2048 dimensions being 80 MB. Near a distance of zero, where the projection
    vanishes, the interval is somewhat too wide.

    Returns:
        (low, high); `low` may be negative, as unbiased estimates of small distances are.

    Raises:
        ValueError: as `kid` and `bootstrap_interval`, or fewer than two vectors to compare with.
    """
    if max_compared < 2:
        raise ValueError(f'Images cannot be compared with {max_compared} others: take 2 or more.')
    values = _subset_estimates(features_real, features_fake, num_subsets, max_subset_size, rng)
    real, fake = feature_pair(features_real, features_fake)
    compared = [_some_rows(len(features), max_compared, rng) for features in (real, fake)]
    with full_precision():
        influences = [_influences(real, fake, *compared), _influences(fake, real, *compared[::-1])]
    return bootstrap_interval(float(values.mean()), [*influences, values], num_resamples, rng, confidence, progress)


# ---------------------------------------------------------------------------------------------------------------------
# Subsets


def _at_least_two(real_features: Features, fake_features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    real, fake = feature_pair(real_features, fake_features)
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f'{len(real)} real and {len(fake)} fake feature vectors have no kernel distance: give 2 or more of each.'
        )
    return real, fake


def _subset_estimates(
    real_features: Features,
    fake_features: Features,
    num_subsets: int,
    max_subset_size: int,
    rng: Rng | None,
    progress: Progress | None = None,
) -> np.ndarray:
    """float64 [S]"""
    real, fake = _at_least_two(real_features, fake_features)
    size = min(len(real), len(fake), max_subset_size)
    if num_subsets < 1 or size < 2:
        raise ValueError(
            f'{num_subsets} subsets of at most {max_subset_size} vectors give no estimate: take 1 or more subsets of '
            '2 or more vectors.'
        )
    rng = np.random.default_rng() if rng is None else rng
    drawn = np.empty([2, num_subsets, size], dtype=np.int64)  # copies: what `choice` gives may hold a whole permutation
    for of_fake, of_real in zip(*drawn):
        of_fake[:] = rng.choice(len(fake), size, replace=False)
        of_real[:] = rng.choice(len(real), size, replace=False)
    of_fake, of_real = torch.from_numpy(drawn).to(real.device)
    with full_precision():
        if _pairs(len(real), len(fake)) <= num_subsets * _pairs(size, size):
            memberships = _membership(of_real, len(real)), _membership(of_fake, len(fake))
            return _estimates(real, fake, *memberships, _typical_kernel(real, fake), progress)
        return _estimates_one_by_one(real, fake, of_real, of_fake, progress)


def _pairs(num_real: int, num_fake: int) -> float:
    """Kernel values of an estimate, each symmetric pair counted once."""
    return num_real * num_fake + (num_real**2 + num_fake**2) / 2


def _membership(indices: torch.Tensor, count: int) -> torch.Tensor:
    """[S, m] indices → float32 [count, S], 1 where the subset has the vector."""
    return torch.zeros([len(indices), count], device=indices.device).scatter_(1, indices, 1).T.contiguous()


def _estimates_one_by_one(
    real: torch.Tensor, fake: torch.Tensor, of_real: torch.Tensor, of_fake: torch.Tensor, progress: Progress | None
) -> np.ndarray:
    """For subsets that have few of all pairs: each computes its own."""
    ones = torch.ones([of_real.shape[1], 1], device=real.device)
    level = _typical_kernel(real, fake)
    values = np.empty(len(of_real))
    for index, (rows_real, rows_fake) in enumerate(zip(of_real, of_fake)):
        values[index] = _estimates(real[rows_real], fake[rows_fake], ones, ones, level)[0]
        if progress is not None:
            progress(index + 1, len(values))
    return values


# ---------------------------------------------------------------------------------------------------------------------
# Kernel sums


def _estimates(
    real: torch.Tensor,
    fake: torch.Tensor,
    real_weights: torch.Tensor,
    fake_weights: torch.Tensor,
    level: float,
    progress: Progress | None = None,
) -> np.ndarray:
    """Unbiased estimates for all columns of weights (0 or 1) at once, from one pass over the kernel values.

    With weights u, v these are quadratic forms uᵀKu without the diagonal, vᵀKv likewise, and uᵀKv: the products of
    vectors, which cost most, are shared by all subsets.

    Args:
        real, fake:                 [N, D], [M, D].
        real_weights, fake_weights: float32 [N, S], [M, S].
        level:                      typical kernel value. It is taken from every kernel value, hence from each of the
                                    three means, in which it cancels: 1 + 1 - 2.

    Returns:
        float64 [S]
    """
    step = _steps(_blocks(real), _blocks(fake), progress)
    within_real = _sums_within(real, real_weights, level, step)
    within_fake = _sums_within(fake, fake_weights, level, step)
    between = _sums_between(real, fake, real_weights, fake_weights, level, step)
    num_real, num_fake = (_float64(weights).sum(dim=0).cpu().numpy() for weights in (real_weights, fake_weights))
    return (
        within_real / (num_real * (num_real - 1))
        + within_fake / (num_fake * (num_fake - 1))
        - 2 * between / (num_real * num_fake)
    )


def _steps(real_blocks: list[slice], fake_blocks: list[slice], progress: Progress | None) -> Callable[[], None]:
    """What is to be called after each block."""
    real, fake = len(real_blocks), len(fake_blocks)
    total = real * fake + (real * (real + 1) + fake * (fake + 1)) // 2
    done = itertools.count(1)
    return (lambda: None) if progress is None else (lambda: progress(next(done), total))


def _blocks(features: torch.Tensor) -> list[slice]:
    """Two or more, as what is symmetric is saved between blocks only."""
    largest = _BLOCK_ROWS_CPU if features.device.type == 'cpu' else _BLOCK_ROWS_ACCELERATOR
    return spans(len(features), min(largest, math.ceil(len(features) / 2)))


def _typical_kernel(real: torch.Tensor, fake: torch.Tensor) -> float:
    """The kernel of the means of some vectors. Any number would do; one near the mean saves digits."""
    real_mean, fake_mean = (
        features[:_ROWS_FOR_LEVEL].mean(dim=0, dtype=compute_dtype(features.dtype)) for features in (real, fake)
    )
    return float((real_mean @ fake_mean / len(real_mean) + 1) ** 3)


def _sums_within(features: torch.Tensor, weights: torch.Tensor, level: float, step: Callable[[], None]) -> np.ndarray:
    """Σ w_i w_j (k_ij - level) over i ≠ j: float64 [S]."""
    total = torch.zeros_like(_float64(weights[0]))
    blocks = _blocks(features)
    for index, rows in enumerate(blocks):
        for columns in blocks[index:]:
            kernel = _kernel(features[rows], features[columns], level)
            if columns is rows:
                kernel.fill_diagonal_(0)
            part = _weighted_sum(kernel, weights[rows], weights[columns])
            total += part if columns is rows else 2 * part
            step()
    return total.cpu().numpy()


def _sums_between(
    real: torch.Tensor,
    fake: torch.Tensor,
    real_weights: torch.Tensor,
    fake_weights: torch.Tensor,
    level: float,
    step: Callable[[], None],
) -> np.ndarray:
    """Σ u_i v_j (k_ij - level): float64 [S]."""
    total = torch.zeros_like(_float64(real_weights[0]))
    for rows in _blocks(real):
        for columns in _blocks(fake):
            kernel = _kernel(real[rows], fake[columns], level)
            total += _weighted_sum(kernel, real_weights[rows], fake_weights[columns])
            step()
    return total.cpu().numpy()


def _kernel(a: torch.Tensor, b: torch.Tensor, level: float) -> torch.Tensor:
    """k - level for all pairs: [rows of a, rows of b]."""
    dtype = compute_dtype(a.dtype)
    a, b = a.to(dtype), b.to(dtype)
    if a.device.type == 'cpu' and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # By oneDNN: the BLAS of PyTorch's usual builds takes twice as long on processors that are not Intel's.
        kernel = torch.nn.functional.linear(a.to_mkldnn(), b.to_mkldnn()).to_dense().mul_(1 / a.shape[1]).add_(1)
    else:
        one = torch.ones([], dtype=dtype, device=a.device)
        kernel = torch.addmm(one, a, b.T, alpha=1 / a.shape[1])
    return kernel.pow_(3).sub_(level)


def _weighted_sum(kernel: torch.Tensor, row_weights: torch.Tensor, column_weights: torch.Tensor) -> torch.Tensor:
    """float64 [S]"""
    sums = kernel @ column_weights.to(kernel.dtype)  # [rows, S]
    return _float64(sums * row_weights).sum(dim=0)


def _float64(x: torch.Tensor) -> torch.Tensor:
    """Apple's GPUs know no float64, so what comes from them goes to the CPU."""
    return (x.cpu() if x.device.type == 'mps' else x).double()


# ---------------------------------------------------------------------------------------------------------------------
# Influences


def _some_rows(count: int, most: int, rng: Rng) -> torch.Tensor:
    """Indices of those that the others are compared with."""
    return torch.from_numpy(np.sort(rng.choice(count, min(count, most), replace=False)))


def _influences(
    own: torch.Tensor, other: torch.Tensor, own_compared: torch.Tensor, other_compared: torch.Tensor
) -> np.ndarray:
    """2 (mean kernel with the own set, itself left out, - mean kernel with the other set): float64 [len(own)]."""
    level = _typical_kernel(own, other)
    with_own = _row_sums(own, own[own_compared.to(own.device)], level)
    with_other = _row_sums(own, other[other_compared.to(own.device)], level)
    compared_with_itself = np.zeros(len(own))
    compared_with_itself[own_compared.numpy()] = 1
    squares = np.concatenate([_float64(own[rows]).square().sum(dim=1).cpu().numpy() for rows in _blocks(own)])
    itself = (squares / own.shape[1] + 1) ** 3 - level
    with_own = (with_own - compared_with_itself * itself) / (len(own_compared) - compared_with_itself)
    return 2 * (with_own - with_other / len(other_compared))


def _row_sums(features: torch.Tensor, compared: torch.Tensor, level: float) -> np.ndarray:
    """Σ_j (k_ij - level): float64 [len(features)]."""
    parts = []
    for rows in _blocks(features):
        sums = [_float64(_kernel(features[rows], compared[columns], level).sum(dim=1)) for columns in _blocks(compared)]
        parts.append(torch.stack(sums).sum(dim=0).cpu().numpy())
    return np.concatenate(parts)
