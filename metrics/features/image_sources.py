"""Where metrics get their images from: a dataset, or a generator.

Both sources return the image of an index, which is the same on every rank.

N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

import torch

from dataset_format.sizes import Resolution, sides
from metrics.batching import split
from metrics.features import randomness
from torch_utils import inference_graphs
from torch_utils.images import on_white, to_uint8
from training import known_classes
from training.dataset import Dataset

# Pixels that the generator renders at once: 4 images at 1024x1024, 64 at 256x256.
_MAX_PIXELS_AT_ONCE = 1 << 22


class MetricError(ValueError):
    """A metric cannot be computed. The message is for the user."""


class ImageSource(Protocol):
    """Images by index."""

    title: str  # what the images are

    def batches(self, index_batches: list[range]) -> Iterator[torch.Tensor]:
        """Yield images uint8 [N, 3, H, W] on the device for each batch of indices."""
        ...


class RealImages:
    """The images of a dataset, in its order.

    Args:
        dataset: Images of any kind that metrics support.
        workers: Processes that decode images; 0 decodes them in this process.
        device: Where the images are needed.
    """

    title = 'real images'

    def __init__(self, dataset: Dataset, workers: int, device: torch.device):
        self._dataset, self._workers, self._device = dataset, workers, device

    def batches(self, index_batches: list[range]) -> Iterator[torch.Tensor]:
        """Yield images uint8 [N, 3, H, W] on the device for each batch of indices."""
        loader = torch.utils.data.DataLoader(
            self._dataset,
            batch_sampler=cast(Iterable[list[int]], index_batches),
            num_workers=self._workers,
            pin_memory=self._device.type == 'cuda',
            generator=torch.Generator(),  # by default, the loader draws from the global one, which the training uses
        )
        for images, _labels in loader:
            yield as_rgb(images.to(self._device, non_blocking=True))


class GeneratedImages:
    """Images of a generator, for the latents and labels that belong to their indices.

    Args:
        G: Generator in eval mode, on the device.
        dataset: Dataset from which labels are drawn.
        seed: Seed of all draws.
        batch_size: Images that the generator renders at once.
        device: Device of G.
    """

    title = 'generated images'

    def __init__(self, G: Any, dataset: Dataset, seed: int, batch_size: int, device: torch.device):
        self._G, self._dataset, self._seed, self._batch_size, self._device = G, dataset, seed, batch_size, device

    def batches(self, index_batches: list[range]) -> Iterator[torch.Tensor]:
        """Yield images uint8 [N, 3, H, W] on the device for each batch of indices."""
        for indices in index_batches:
            yield as_rgb(torch.cat([self._generate(part) for part in split(indices, self._batch_size)]))

    @torch.no_grad()
    def _generate(self, indices: range) -> torch.Tensor:
        z = randomness.latents(self._seed, indices, self._G.z_dim).to(self._device)
        c = randomness.labels(self._seed, indices, self._dataset).to(self._device)
        with randomness.batch_noise(self._device, self._seed, indices[0]):
            images = inference_graphs.call(self._G, z, c)
        return to_uint8(require_finite(images, 'The generator gives images'))


def images_at_once(resolution: Resolution, at_most: int) -> int:
    """Return how many images of a resolution a generator should render at once."""
    return max(min(at_most, _MAX_PIXELS_AT_ONCE // math.prod(sides(resolution))), 1)


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 [N, C, H, W] to [N, 3, H, W]: alpha is composited on white, gray is repeated three times."""
    images = on_white(images)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def alpha_entry(num_channels: int) -> dict[str, str]:
    """Return the entry about alpha in results and cache keys; {} for images without alpha."""
    return {'transparency': 'on white'} if num_channels in (2, 4) else {}


def require_finite(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Return the tensor unchanged.

    Args:
        tensor: Any numbers.
        what: Beginning of the error message, such as 'The generator gives images'.

    Raises:
        MetricError: The tensor contains NaN or infinity.
    """
    if not torch.isfinite(tensor).all():
        raise MetricError(f'{what} that are not finite (NaN or infinity), so the metric cannot be computed.')
    return tensor


SELECTION_KEYWORDS = ('max_size', 'random_seed', 'skip')


def open_dataset(dataset_kwargs: dict[str, Any], xflip: bool, G: Any, selected_only: bool = False) -> Dataset:
    """Open a dataset with all of its images, even if the network was trained on a subset, or with the selected ones.

    Args:
        dataset_kwargs: As in network pickles: `class_name` and keywords.
        xflip: Whether the mirrored images count, too: those of the training, or else from left to right.
        G: Generator that the images must match.
        selected_only: Whether keywords that select images count.

    Raises:
        ValueError: The dataset cannot be opened, or has images or labels of another kind than the network.
    """
    ignored = () if selected_only else SELECTION_KEYWORDS
    kwargs = {key: value for key, value in dataset_kwargs.items() if key not in ignored}
    upside_down = bool(kwargs.pop('yflip', False)) and xflip
    xflip = xflip and (bool(kwargs.get('xflip')) or not upside_down)
    kwargs.update({'yflip': True} if upside_down else {})
    kwargs.update(xflip=xflip, resolution=G.img_resolution, use_labels=G.c_dim > 0, cache_mib=0)
    dataset: Dataset = known_classes.construct(kwargs, known_classes.DATASETS)
    for what, dataset_value, network_value in (
        ('channels per image', dataset.num_channels, G.img_channels),
        ('numbers per label', dataset.label_dim, G.c_dim),
    ):
        if dataset_value != network_value:
            raise MetricError(
                f'{kwargs.get("path", dataset.name)} has {dataset_value} {what}, but the network has {network_value}. '
                'Use the dataset that the network was trained on.'
            )
    return dataset
