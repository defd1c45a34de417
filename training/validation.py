"""Images held out of training: D's outputs for them, and how much they say about overfitting.

Before every few batches, D sees some held-out images, augmented like the others. The statistics of a tick then have its
mean output for them, for real and for generated images in the same steps, and r_v (`training.ada.validation_ratio`).
Training itself does not notice: the random numbers for it are apart from those of the training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from torch_utils import cuda_memory, training_stats
from torch_utils.distributed import World
from training import known_classes
from training.ada import VALIDATION_SCORES, Heuristic
from training.config import TrainingConfig
from training.data.unreadable import ReadableImages
from training.dataset import ImageFolderDataset
from training.loss import StyleGAN2Loss

R_V = 'Validation/r_v'


class Validation:
    """Show D held-out images.

    Args:
        world: Ranks that the images are divided among.
        config: Configuration of the run, with `validation_set_kwargs`.
    """

    def __init__(self, world: World, config: TrainingConfig):
        assert config.validation_set_kwargs is not None
        self._world, self._config = world, config
        self.dataset: ImageFolderDataset = known_classes.construct(config.validation_set_kwargs, known_classes.DATASETS)
        self._readable = ReadableImages(self.dataset, strict=config.strict_data)
        self._order = np.random.RandomState(config.random_seed).permutation(len(self.dataset))
        self._ratio = Heuristic('rv')

    def update(self, loss: StyleGAN2Loss, batch_idx: int, cur_nimg: int) -> None:
        """Show D the next batch, if it is time to. Call this before each batch of training, on all ranks.

        Before it, because D's outputs for training images are those of D before its step, too.

        Args:
            loss: The loss, which knows how D sees images.
            batch_idx: Number of batches so far.
            cur_nimg: Number of images shown so far.
        """
        turn, is_early = divmod(batch_idx, self._config.ada_interval)
        loss.is_compared = not is_early
        if is_early:
            return
        seed = (self._config.random_seed + batch_idx) * self._world.size + self._world.rank
        with _random_numbers_apart(self._world.device, seed):
            for images, labels in self._pieces(turn):
                training_stats.report(VALIDATION_SCORES, loss.look_at(images, labels, cur_nimg))

    def _pieces(self, turn: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this rank's share of a batch in pieces of `batch_gpu`: images in [-1, +1], and labels.

        The batches walk through all images again and again, in a random order.
        """
        per_rank = self._config.batch_size // self._world.size
        first = turn * self._config.batch_size + self._world.rank * per_rank
        for start in range(first, first + per_rank, self._config.batch_gpu):
            positions = np.arange(start, start + self._config.batch_gpu) % len(self._order)
            pixels, labels, _messages = zip(*(self._readable[int(index)] for index in self._order[positions]))
            stacked = [torch.from_numpy(np.stack(arrays)) for arrays in (pixels, labels)]
            shown, c = (cuda_memory.to_device(tensor, self._world.device) for tensor in stacked)
            yield shown.to(torch.float32) / 127.5 - 1, c

    def end_tick(self) -> None:
        """Report r_v of the tick that ends here. Collective."""
        training_stats.report0(R_V, self._ratio.update(self._world.device))

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics since the last tick."""
        return self._ratio.statistics.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._ratio.statistics.load_state_dict(state)


@contextlib.contextmanager
def _random_numbers_apart(device: torch.device, seed: int) -> Iterator[None]:
    """Within this context, PyTorch draws from a seed of its own; after it, as if nothing had been drawn."""
    generators: list[Any] = [torch] if device.type == 'cpu' else [torch, getattr(torch, device.type)]
    states = [generator.get_rng_state() for generator in generators]
    torch.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states):
            generator.set_rng_state(state)
