"""Where metrics take their images from: a dataset, or a generator.

N images, C channels, H height, W width. Both give the image of an index, whichever rank asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch

import dnnlib
from dataset_format.sizes import Resolution, sides
from metrics.features import randomness
from torch_utils.images import on_white, to_uint8
from training.dataset import Dataset

# The generator makes at most this many pixels at once: 4 images at 1024x1024, 64 at 256x256.
_MAX_PIXELS_AT_ONCE = 1 << 22


class MetricError(ValueError):
    """A metric that has no sound value. The text is a sentence."""


class ImageSource(Protocol):
    """Images by index; `what` they are is for the user."""

    what: str

    def batches(self, spans: list[range]) -> Iterator[torch.Tensor]:
        """uint8 [N, 3, H, W] on the device for each span of indices."""
        ...


class RealImages:
    """The images of a dataset, in its order; `workers` processes decode them (0: this one)."""

    what = 'real images'

    def __init__(self, dataset: Dataset, workers: int, device: torch.device):
        self._dataset, self._workers, self._device = dataset, workers, device

    def batches(self, spans: list[range]) -> Iterator[torch.Tensor]:
        loader = torch.utils.data.DataLoader(
            self._dataset,
            batch_sampler=spans,
            num_workers=self._workers,
            pin_memory=self._device.type == 'cuda',
            generator=torch.Generator(),  # or it would draw from the global one, which belongs to the training
        )
        for images, _labels in loader:
            yield as_rgb(images.to(self._device, non_blocking=True))


class GeneratedImages:
    """Images of a generator, for latents and labels that belong to their indices.

    Args:
        G:       generator in eval mode, on the device.
        dataset: its labels are drawn from.
        seed:    of all draws.
        at_once: images that the generator makes together.
        device:  of G.
    """

    what = 'generated images'

    def __init__(self, G: torch.nn.Module, dataset: Dataset, seed: int, at_once: int, device: torch.device):
        self._G, self._dataset, self._seed, self._at_once, self._device = G, dataset, seed, at_once, device

    def batches(self, spans: list[range]) -> Iterator[torch.Tensor]:
        for span in spans:
            yield as_rgb(torch.cat([self._generate(part) for part in split(span, self._at_once)]))

    @torch.no_grad()
    def _generate(self, indices: range) -> torch.Tensor:
        z = randomness.latents(self._seed, indices, self._G.z_dim).to(self._device)
        c = randomness.labels(self._seed, indices, self._dataset).to(self._device)
        with randomness.own_noise(self._device, self._seed, indices[0]):
            images = self._G(z, c)
        return to_uint8(require_finite(images, 'The generator gives images'))


def split(span: range, size: int) -> list[range]:
    """The span in parts of `size`; the last may be shorter."""
    return [span[start : start + size] for start in range(0, len(span), size)]


def images_at_once(resolution: Resolution, at_most: int) -> int:
    """How many images of a resolution a generator should make together."""
    return max(min(at_most, _MAX_PIXELS_AT_ONCE // math.prod(sides(resolution))), 1)


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, C, H, W] → [N, 3, H, W]: what is transparent on white, gray repeated three times."""
    images = on_white(images)
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def transparency_of(num_channels: int) -> dict[str, str]:
    """What results and the keys of kept features say about alpha: nothing where images have none."""
    return {'transparency': 'on white'} if num_channels in (2, 4) else {}


def require_finite(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """The tensor; MetricError that begins with `what` where it has NaN or infinity."""
    if not torch.isfinite(tensor).all():
        raise MetricError(f'{what} that are not finite (NaN or infinity): there is nothing to measure.')
    return tensor


def open_dataset(dataset_kwargs: dict[str, Any], xflip: bool, G: torch.nn.Module) -> Dataset:
    """All images of a dataset, whatever part of it was trained on; it must suit the network.

    Raises:
        ValueError: a sentence: it is not there, or has images of another size, other channels, or other labels.
    """
    kwargs = {key: value for key, value in dataset_kwargs.items() if key not in ('max_size', 'random_seed')}
    kwargs.update(xflip=xflip, resolution=G.img_resolution, use_labels=G.c_dim > 0, cache_mib=0)
    dataset = dnnlib.util.construct_class_by_name(**kwargs)
    for what, of_dataset, of_network in (
        ('channels an image', dataset.num_channels, G.img_channels),
        ('numbers a label', dataset.label_dim, G.c_dim),
    ):
        if of_dataset != of_network:
            raise MetricError(
                f'{kwargs.get("path", dataset.name)} has {of_dataset} {what}, the network {of_network}: '
                'give the dataset that the network was trained on.'
            )
    return dataset
