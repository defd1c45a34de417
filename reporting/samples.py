"""Images that a report generates: an interpolation, and generated images beside the nearest training images.

Nothing of the training is touched: latents come from seeds of their own, and the noise is that of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

from generation.latents import z_of_seed
from torch_utils import images
from training import known_classes
from training.dataset import ImageFolderDataset

NUM_NEIGHBORS = 3
UNREADABLE = 'The training images cannot be read, so the nearest ones are not shown.'
MAX_COMPARED = 20_000  # training images that are searched for neighbors

_STRIP_KEYS, _STRIP_STEPS = 3, 4
_NUM_QUERIES = 8
_FIRST_SEED = 100_000  # not one of those that users try first
_COMPARED_SIDE = 32  # pixels to which images are scaled down before they are compared
_MAX_PIXELS_READ = 2**28  # of training images: two seconds of decoding
_BATCH = 4


@dataclass(frozen=True)
class Samples:
    """Pictures of one network.

    Args:
        kimg: Thousands of images after which it was saved, or None.
        strip: An interpolation from left to right.
        neighbors: Generated images in the first row, and below each the training images nearest to it.
        num_compared: Number of training images that were searched.
        num_training: Number of all training images.
        note: Why there are no neighbors.
    """

    kimg: float | None
    strip: PIL.Image.Image
    neighbors: PIL.Image.Image | None = None
    num_compared: int = 0
    num_training: int = 0
    note: str = ''


class NearestImages:
    """Training images at a small size, to be searched for the nearest ones.

    Args:
        dataset_kwargs: Keywords of the dataset, as in the configuration.
    """

    def __init__(self, dataset_kwargs: Mapping[str, Any]):
        kwargs = {**dataset_kwargs, 'xflip': False, 'use_labels': False, 'cache_mib': 0}
        self._dataset: ImageFolderDataset = known_classes.construct(kwargs, known_classes.DATASETS)
        height, width = self._dataset.image_shape[1:]
        num_readable = max(min(MAX_COMPARED, _MAX_PIXELS_READ // (height * width)), _NUM_QUERIES)
        chosen = np.random.RandomState(0).permutation(len(self._dataset))[:num_readable]
        self._indices = np.sort(chosen)
        self._small: np.ndarray | None = None
        self.shape = self._dataset.image_shape
        self.num_training = len(self._dataset)

    @property
    def num_compared(self) -> int:
        """Number of images that are searched."""
        return len(self._indices)

    def find(self, queries: np.ndarray, number: int) -> np.ndarray:
        """Return the nearest training images in pixels.

        Args:
            queries: uint8 [N, C, H, W].
            number: How many for each; where there are fewer images, they are repeated.

        Returns:
            uint8 [N, number, C, H, W], the nearest first.
        """
        if self._small is None:
            self._read_small_images()
        assert self._small is not None
        found = []
        for query in queries:
            difference = self._small.astype(np.float32) - _small(query)
            nearest = np.argsort(np.square(difference).sum(axis=1), kind='stable')[:number]
            found.append([self._image(self._indices[index]) for index in np.resize(nearest, number)])
        self._dataset.close()
        return np.array(found)

    def _read_small_images(self) -> None:
        """Read the images that are searched, and leave out those that cannot be read."""
        readable, small_images = [], []
        for index in self._indices:
            try:
                small_images.append(_small(self._image(index)))
                readable.append(index)
            except (ValueError, OSError):  # the training itself reports them
                continue
        if not readable:
            raise ValueError('None of the training images can be read.')
        self._indices, self._small = np.array(readable), np.stack(small_images)

    def _image(self, index: int) -> np.ndarray:
        return self._dataset[int(index)][0]


def _small(image: np.ndarray) -> np.ndarray:
    """Scale an image, uint8 [C, H, W], down to at most 32 pixels a side; uint8 [C * h * w]."""
    factor = -(-max(image.shape[1:]) // _COMPARED_SIDE)
    if factor == 1:
        return image.reshape(-1)
    channels, height, width = image.shape
    cropped = image[:, : height // factor * factor, : width // factor * factor]
    blocks = cropped.reshape(channels, height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8).reshape(-1)


@torch.no_grad()
def make_samples(G: Any, kimg: float | None, nearest: NearestImages | None, note: str = '') -> Samples:
    """Generate the images of a report.

    Args:
        G: Generator in eval mode.
        kimg: See `Samples`.
        nearest: Where to look for training images, or None to leave this out.
        note: Why that is left out.
    """
    strip = _interpolation(G)
    if nearest is not None and list(nearest.shape) != [G.img_channels, *strip.shape[2:]]:
        nearest, note = None, 'The training images have another shape than those of the network.'
    picture = images.to_pil(images.image_grid(strip, (len(strip), 1)))
    if nearest is None:
        return Samples(kimg, picture, note=note)
    labels = _labels(G, _NUM_QUERIES)
    seeds = range(_FIRST_SEED + 10, _FIRST_SEED + 10 + _NUM_QUERIES)
    z = torch.from_numpy(np.concatenate([z_of_seed(seed, G.z_dim) for seed in seeds]))
    generated = _render(G, G.mapping(z.to(labels.device, torch.float32), labels))
    found = nearest.find(generated, NUM_NEIGHBORS)  # [N, number, C, H, W]
    cells = np.concatenate([generated[None], found.swapaxes(0, 1)]).reshape(-1, *generated.shape[1:])
    neighbors = images.to_pil(images.image_grid(cells, (_NUM_QUERIES, found.shape[1] + 1)))
    return Samples(kimg, picture, neighbors, nearest.num_compared, nearest.num_training)


def _interpolation(G: Any) -> np.ndarray:
    """Return images along straight lines in w between a few latents; of a conditional network, between classes, too."""
    labels = _labels(G, _STRIP_KEYS)
    z = torch.from_numpy(np.concatenate([z_of_seed(_FIRST_SEED + key, G.z_dim) for key in range(_STRIP_KEYS)]))
    keys = G.mapping(z.to(labels.device, torch.float32), labels)
    steps = torch.linspace(0, _STRIP_KEYS - 1, (_STRIP_KEYS - 1) * _STRIP_STEPS + 1)
    before = steps.floor().clamp(max=_STRIP_KEYS - 2).long()
    fraction = (steps - before)[:, None, None].to(keys.device)
    return _render(G, keys[before] + (keys[before + 1] - keys[before]) * fraction)


def _labels(G: Any, number: int) -> torch.Tensor:
    """Return one-hot labels of classes at equal distances; [number, 0] for an unconditional network."""
    device = next(G.parameters()).device
    labels = torch.zeros([number, G.c_dim], device=device)
    if G.c_dim:
        labels[torch.arange(number), torch.arange(number) * G.c_dim // max(number, G.c_dim) % G.c_dim] = 1
    return labels


def _render(G: Any, ws: torch.Tensor) -> np.ndarray:
    """Return uint8 [N, C, H, W]."""
    batches = [images.to_uint8(G.synthesis(part, noise_mode='const')).cpu() for part in ws.split(_BATCH)]
    return torch.cat(batches).numpy()
