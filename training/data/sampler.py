"""The order in which training sees the images."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
import torch


class InfiniteSampler(torch.utils.data.Sampler):
    """Endless indices into a dataset, with a disjoint share for each of several processes.

    All processes walk through the same permutation again and again, and take turns at its elements. Each visited
    element is swapped with one of the `window` elements before it, so that every round has a different order, while an
    image returns only after most others have been seen.

    Args:
        dataset: Any object with a length.
        rank: Number of this process.
        num_replicas: Number of processes.
        shuffle: False yields the indices in order.
        seed: Seed of the permutation and the swaps; the same for all processes.
        window_size: Maximum distance of the swaps as a fraction of the dataset, from 0 (the same order every round) to
            1.
        start: Number of samples of this process to skip, for a resumed run.
    """

    DRAWS_PER_BLOCK = 4096

    def __init__(
        self,
        dataset: Sized,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
        start: int = 0,
    ):
        if len(dataset) == 0:
            raise ValueError('The dataset has no images.')
        if not 0 <= rank < num_replicas:
            raise ValueError(f'rank is {rank}, but must be from 0 to {num_replicas - 1} with {num_replicas} processes.')
        if not 0 <= window_size <= 1:
            raise ValueError(f'window_size is {window_size}, but must be from 0 to 1.')
        if start < 0:
            raise ValueError(f'start is {start}, but must be 0 or more.')
        super().__init__()
        self._size = len(dataset)
        self._rank = rank
        self._num_replicas = num_replicas
        self._shuffle = shuffle
        self._seed = seed
        self._window = round(self._size * window_size) if shuffle else 0
        self._start = start

    def __iter__(self) -> Iterator[int]:
        first = self._rank + self._start * self._num_replicas
        for step, index in enumerate(self._walk()):
            if step >= first and step % self._num_replicas == self._rank:
                yield index

    def _walk(self) -> Iterator[int]:
        """Yield what all processes together see."""
        random = np.random.RandomState(self._seed)
        shuffled = np.arange(self._size)
        if self._shuffle:
            random.shuffle(shuffled)
        order: list[int] = shuffled.tolist()

        position = 0
        while True:
            distances = random.randint(max(self._window, 1), size=self.DRAWS_PER_BLOCK).tolist()
            for distance in distances:
                yield order[position]
                partner = position - distance  # negative: counted from the end
                order[position], order[partner] = order[partner], order[position]
                position = (position + 1) % self._size
