"""Images that turn out unreadable in the course of a training: another one in their place, and a word about each.

A run that has gone well for days need not end for one image. `ReadableImages` puts another image in its place, always
the same one, so that a run that is resumed sees what the uninterrupted one saw. `SkippedImages` counts and names them.
"""

import numpy as np
import torch

from torch_utils import distributed, training_stats
from training.dataset import ImageError

MAX_SUBSTITUTES = 10  # Where none of so many can be read, it is not the images: the disk or the archive is gone.
STATISTIC = 'Data/skipped_images'


class ReadableImages(torch.utils.data.Dataset):
    """The images of a dataset; one that cannot be read is replaced by another, drawn at random by its index.

    `images[i]` is an image, its label, and the sentence about image i where that is not it, else ''.

    Args:
        dataset: Images with labels, whose `dataset[i]` raises ImageError where it cannot be read.
        strict: Replace nothing, let the error through.
    """

    def __init__(self, dataset, strict=False):
        self._dataset = dataset
        self._strict = strict

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, idx):
        try:
            return *self._dataset[idx], ''
        except ImageError as error:
            if self._strict:
                raise
            return *self._substitute(idx, error), str(error)

    def _substitute(self, idx, error):
        for other in np.random.RandomState(idx).randint(len(self._dataset), size=MAX_SUBSTITUTES):
            try:
                return self._dataset[int(other)]
            except ImageError:
                pass
        raise ImageError(f'{error} Nor can any of {MAX_SUBSTITUTES} others in its place be read.') from error


class SkippedImages:
    """What `ReadableImages` has replaced: counted in the statistics, and each image named once.

    The mean of the statistic is a share of the images shown; times `num` it is their number.
    """

    def __init__(self):
        self._named = set()
        self._new = []

    def note(self, sentences):
        """Take in the sentences of a batch; '' stands for an image that was read."""
        training_stats.report(STATISTIC, [float(bool(sentence)) for sentence in sentences])
        for sentence in sorted(set(sentences) - self._named - {''}):
            self._named.add(sentence)
            self._new.append(sentence)

    def print_new(self, world):
        """Collective: the main rank prints what all ranks have met since the last time."""
        of_ranks = distributed.gather_objects_to_main(world, self._new)
        self._new = []
        for sentence in sorted({sentence for sentences in of_ranks for sentence in sentences}):
            print(f'Warning: {sentence} Another image is shown in its place (--strict-data=1 would stop here).')
