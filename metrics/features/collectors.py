"""Collectors for a stream of feature vectors: of their mean and covariance, or of the vectors themselves.

`gather_rows` is for metrics that compute their numbers themselves, such as path lengths.

N images, D dimensions of a feature vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics.batching import rounds
from torch_utils import distributed
from torch_utils.distributed import World, failing_together


@dataclass(frozen=True)
class Moments:
    """Mean float64 [D] and covariance float64 [D, D] (divided by N, as in published statistics) of `count` vectors."""

    count: int
    mean: np.ndarray
    cov: np.ndarray


class MomentsCollector:
    """Computes mean and covariance in one pass over batches, in float64, for any distribution of batches over ranks.

    The state consists of the count, the mean and the sum of (x - mean)(x - mean)ᵀ, merged by the pairwise update of
    Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979,
    eq. 2.1). It never subtracts large sums from each other, so it is exact to rounding for features of any mean.

    Args:
        world: Ranks.
        dim: D.
    """

    def __init__(self, world: World, dim: int):
        self._world = world
        # Apple GPUs do not support float64.
        device = torch.device('cpu') if world.device.type == 'mps' else world.device
        self._count = 0
        self._mean = torch.zeros([dim], dtype=torch.float64, device=device)
        self._scatter = torch.zeros([dim, dim], dtype=torch.float64, device=device)  # sum of (x - mean)(x - mean)ᵀ

    def add(self, features: torch.Tensor, sizes: list[int]) -> None:
        """Add one batch from each rank.

        Args:
            features: [N, D] of this rank's batch; rows beyond its size are ignored.
            sizes: Sizes of the batches of all ranks.
        """
        x = features[: sizes[self._world.rank]].to(self._mean.device, torch.float64)
        if len(x) == 0:
            return
        total = self._count + len(x)
        batch_mean = x.mean(dim=0)
        shift = batch_mean - self._mean
        # One more row represents the distance between the two means.
        row = shift * (self._count * len(x) / total) ** 0.5
        centered = torch.cat([x - batch_mean, row[None]])
        self._scatter.addmm_(centered.T, centered)
        self._mean += shift * (len(x) / total)
        self._count = total

    def finish(self) -> Moments | None:
        """Return the moments over all ranks on the main rank, else None. Collective: every rank must call this."""
        count = torch.tensor(self._count, dtype=torch.float64, device=self._mean.device)
        mean = self._mean * self._count
        distributed.sum_tensors(self._world, [count, mean])
        mean /= count
        shift = self._mean - mean
        self._scatter.addr_(shift, shift, alpha=self._count)
        distributed.sum_tensors(self._world, [self._scatter])
        if not self._world.is_main:
            return None
        return Moments(int(count), mean.cpu().numpy(), (self._scatter / count).cpu().numpy())


class FeatureCollector:
    """Collects all feature vectors on the main rank, in the order of the images.

    Args:
        world: Ranks.
        count: N.
        dim: D.
        dtype: Type in which the features are stored.
    """

    def __init__(self, world: World, count: int, dim: int, dtype: torch.dtype):
        self._world = world
        self._features = torch.empty([count, dim] if world.is_main else [0, dim], dtype=dtype)
        self._filled = 0

    def add(self, features: torch.Tensor, sizes: list[int]) -> None:
        """Add one batch from each rank. Collective: every rank must call this.

        Args:
            features: [N, D] of this rank's batch; rows beyond its size are ignored.
            sizes: Sizes of the batches of all ranks, in the order of the images. None is larger than the first one.
        """
        own = features[: sizes[self._world.rank]].to(self._features.dtype)
        padded = torch.cat([own, own.new_zeros([sizes[0] - len(own), own.shape[1]])])
        for rows, size in zip(distributed.gather_to_main(self._world, padded), sizes):
            self._features[self._filled : self._filled + size] = rows[:size]
            self._filled += size

    def finish(self) -> np.ndarray | None:
        """Return the features [N, D] on the main rank, else None."""
        assert self._filled == len(self._features)
        return self._features.numpy() if self._world.is_main else None


def gather_rows(
    world: World,
    compute: Callable[[range], torch.Tensor],
    count: int,
    row_shape: tuple[int, ...],
    batch: int,
    progress: Progress,
) -> np.ndarray | None:
    """Compute numbers for each image, or pair of images, in batches that the ranks take in turns. Collective.

    Args:
        world: Ranks.
        compute: Returns the rows float32 [N, *row_shape] of consecutive indices.
        count: Number of rows.
        row_shape: Shape of a row.
        batch: Indices at once.
        progress: Display for the number of rows.

    Returns:
        float32 [count, *row_shape] on the main rank, else None.
    """
    gathered = []
    for batches in rounds(count, batch, world.size):
        with failing_together(world):
            own = torch.zeros([len(batches[0]), *row_shape], device=world.device)
            indices = batches[world.rank]
            if indices:
                own[: len(indices)] = compute(indices)
        for rows, rank_indices in zip(distributed.gather_to_main(world, own), batches):
            gathered.append(rows[: len(rank_indices)].cpu().numpy())
        progress.update(batches[-1].stop)
    return np.concatenate(gathered) if world.is_main else None
