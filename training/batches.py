"""Batches for training: real images with their labels, and latents with labels for the generator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from torch_utils import cuda_memory
from torch_utils.distributed import World
from training import known_classes
from training.config import TrainingConfig
from training.data.ahead import BatchesAhead
from training.data.sampler import InfiniteSampler
from training.data.unreadable import ReadableImages, SkippedImages
from training.dataset import ImageFolderDataset


class TrainingBatches:
    """Endless batches of this rank, in random order.

    Args:
        world: Ranks that the images are divided among.
        config: Configuration of the run.
        cur_nimg: Images that the run has shown so far; the batches continue from there.
        worker_init_fn: Called in each process that reads images, with its number.

    Attributes:
        dataset: The images and labels.
        readable: The same images; another one takes the place of each that cannot be read.
    """

    def __init__(
        self, world: World, config: TrainingConfig, cur_nimg: int, worker_init_fn: Callable[[int], None] | None = None
    ):
        self._device = world.device
        self._batch_gpu = config.batch_gpu
        self._skipped = SkippedImages()
        self.dataset: ImageFolderDataset = known_classes.construct(config.training_set_kwargs, known_classes.DATASETS)
        self.readable = ReadableImages(self.dataset, strict=config.strict_data)
        sampler = InfiniteSampler(
            self.dataset,
            rank=world.rank,
            num_replicas=world.size,
            seed=config.random_seed,
            start=cur_nimg // world.size,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='This DataLoader will create')  # more workers than cores
            loader = torch.utils.data.DataLoader(
                self.readable,
                sampler=sampler,
                batch_size=config.batch_size // world.size,
                worker_init_fn=worker_init_fn,
                **config.data_loader_kwargs,
            )
            self._ahead = BatchesAhead(iter(loader), world.device)

    def next_real(self) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Return the next real images and labels on the device, in pieces of `batch_gpu`.

        Returns:
            Images, float32 [batch_gpu, C, H, W] in [-1, +1], and labels, float32 [batch_gpu, c_dim].
        """
        pixels, labels, messages = next(self._ahead)
        self._skipped.add(messages)
        images = pixels.to(torch.float32) / 127.5 - 1
        return images.split(self._batch_gpu), labels.split(self._batch_gpu)

    def start_next(self) -> None:
        """Start to copy the next real images to the GPU, once the current batch has been given work to do."""
        self._ahead.start_next()

    def with_latents(
        self, images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], z_dim: int
    ) -> list[dict[str, torch.Tensor]]:
        """Add new latents and labels for the generator to each piece of real images.

        Returns:
            Arguments `real_img`, `real_c`, `gen_z` and `gen_c` of `accumulate_gradients` for each piece.
        """
        sizes = [len(piece) for piece in images]
        gen_z = torch.randn([sum(sizes), z_dim], device=self._device).split(sizes)
        gen_c = self._random_labels(sum(sizes)).split(sizes)
        return [
            dict(real_img=img, real_c=c, gen_z=z, gen_c=gc)
            for img, c, z, gc in zip(images, labels, gen_z, gen_c, strict=True)
        ]

    def _random_labels(self, count: int) -> torch.Tensor:
        """Return the labels of images drawn at random, [count, c_dim]."""
        indices = np.random.randint(len(self.dataset), size=count)
        labels = torch.from_numpy(np.stack([self.dataset.get_label(i) for i in indices]))
        return cuda_memory.to_device(labels, self._device)

    def print_skipped(self, world: World) -> None:
        """Collective: name the images that could not be read since the last call."""
        self._skipped.print_new(world)
