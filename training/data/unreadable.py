"""Images that turn out to be unreadable during training: another image takes their place, and each is reported once.

A run that has trained for days should not end because of one image. `ReadableImages` substitutes another image, always
the same one, so that a resumed run sees what the uninterrupted one saw. `SkippedImages` counts and reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from dnnlib.text import message_line
from torch_utils import distributed, training_stats
from training.data.decoding import ImageError

MAX_SUBSTITUTES = 10  # if none of these can be read either, the disk or the archive is gone
STATISTIC = 'Data/skipped_images'


class LabeledImages(Protocol):
    """A sequence of images, uint8 [C, H, W], with their labels, float32 [label_dim]."""

    def __len__(self) -> int: ...

    def __getitem__(self, idx: int, /) -> tuple[np.ndarray, np.ndarray]: ...


class ReadableImages(torch.utils.data.Dataset):
    """The images of a dataset; an unreadable one is replaced by another, selected at random by its index.

    `images[i]` is an image, its label, and the error message if image i was replaced, else ''.

    Args:
        dataset: Images with labels; `dataset[i]` raises ImageError if the image cannot be read.
        strict: Replace nothing and raise the error.
    """

    def __init__(self, dataset: LabeledImages, strict: bool = False):
        self._dataset = dataset
        self._strict = strict

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray, str]:
        try:
            return *self._dataset[idx], ''
        except ImageError as error:
            if self._strict:
                raise
            return *self._substitute(idx, error), str(error)

    def _substitute(self, idx: int, error: ImageError) -> tuple[np.ndarray, np.ndarray]:
        for other in np.random.RandomState(idx).randint(len(self._dataset), size=MAX_SUBSTITUTES):
            try:
                return self._dataset[int(other)]
            except ImageError:
                pass
        raise ImageError(f'{error} None of {MAX_SUBSTITUTES} other images could be read in its place.') from error


class SkippedImages:
    """Statistics and warnings about the images that `ReadableImages` has replaced.

    The mean of the statistic is their fraction of the images shown; times `num` it is their number.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._new: list[str] = []

    def add(self, messages: Sequence[str]) -> None:
        """Record the messages of a batch; '' stands for an image that was read."""
        training_stats.report(STATISTIC, [float(bool(message)) for message in messages])
        for message in sorted(set(messages) - self._reported - {''}):
            self._reported.add(message)
            self._new.append(message)

    def print_new(self, world: distributed.World) -> None:
        """Print, on the main rank, what all ranks have recorded since the last call. Collective."""
        per_rank = distributed.gather_objects_to_main(world, self._new)
        self._new = []
        for message in sorted({message for messages in per_rank for message in messages}):
            text = message_line(message)
            print(f'Warning: {text} Another image is shown in its place (--strict-data=1 would stop here).')
