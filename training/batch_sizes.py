"""How a batch is divided among processes and rounds of gradient accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dnnlib.errors import InvalidArgument

if TYPE_CHECKING:
    from training.config import TrainingConfig


def batch_per_process(batch_size: int, num_gpus: int) -> int:
    """Return the number of images of a batch that each process handles.

    Raises:
        InvalidArgument: The batch cannot be split evenly.
    """
    if batch_size % num_gpus != 0:
        below = batch_size // num_gpus * num_gpus
        raise InvalidArgument(
            'batch',
            f'a batch of {batch_size} images cannot be split evenly over --gpus={num_gpus}: '
            f'use a multiple of {num_gpus}, such as --batch={below or num_gpus}.',
        )
    return batch_size // num_gpus


def check_batch_gpu(batch_size: int, num_gpus: int, batch_gpu: int, mbstd_group: int) -> None:
    """Check that `batch_gpu` images at once divide the batch of a process, and consist of whole mbstd groups.

    Raises:
        InvalidArgument: They do not.
    """
    per_process = batch_per_process(batch_size, num_gpus)
    if per_process % batch_gpu != 0:
        raise InvalidArgument(
            'batch_gpu',
            f'{batch_gpu} images at once do not divide the {per_process} images that each of {num_gpus} processes '
            f'handles of the batch of {batch_size}: use a divisor of {per_process}, or another --batch.',
        )
    if batch_gpu % mbstd_group != 0:
        raise InvalidArgument(
            'mbstd_group',
            f'groups of {mbstd_group} images do not divide the {batch_gpu} images that a process handles at once: '
            f'use a divisor of {batch_gpu} with --mbstd-group, or a multiple of {mbstd_group} with --batch-gpu.',
        )


def mbstd_group_of(config: TrainingConfig) -> int:
    """Return the number of images that the discriminator compares with each other."""
    return config.D_kwargs.get('epilogue_kwargs', {}).get('mbstd_group_size') or 1


def possible_batch_gpus(config: TrainingConfig) -> Sequence[int]:
    """Return all values of --batch-gpu that divide the batch of a process, largest first."""
    per_process = config.batch_size // config.num_gpus
    return [size for size in range(per_process, 0, -1) if per_process % size == 0]


def smaller_batch_gpus(config: TrainingConfig) -> Sequence[int]:
    """Return the values of --batch-gpu that need less memory than the present one, largest first.

    The discriminator compares images in groups. A batch smaller than a group changes the training, so such values are
    returned only if there are no others.
    """
    smaller = [size for size in possible_batch_gpus(config) if size < config.batch_gpu]
    return [size for size in smaller if size % mbstd_group_of(config) == 0] or smaller
