"""A fixed policy of differentiable augmentations (Zhao et al., "Differentiable Augmentation for Data-Efficient GAN
Training", arXiv 2006.10738): color, translation and cutout, for whatever D sees.

Every image gets its own random numbers. All of it is differentiable in the images, as often as wanted: colors and
cutouts are affine, and a translation is a product with matrices of zeros and ones, which needs no scattered gradients.

Images [N, C, H, W] in [-1, +1] may be gray or RGB, each with or without alpha as the last channel. Colors leave alpha
as it is; translation and cutout fill with zeros, in all channels alike. Images need not be square: distances are
relative to the length of each side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

MAX_SHIFT = 1 / 8  # of the length of a side
CUTOUT_SIZE = 1 / 2


def apply_policy(images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Return the images after the augmentations of the given names, in the order of POLICY."""
    for name, augmentation in POLICY.items():
        if name in names:
            images = augmentation(images)
    return images


def _uniform(images: torch.Tensor, low: float = 0, high: float = 1) -> torch.Tensor:
    """Return a random number for each image, [N, 1, 1, 1]."""
    return torch.rand([len(images), 1, 1, 1], device=images.device, dtype=images.dtype) * (high - low) + low


def _random_integers(images: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Return a random integer from `low` to `high`, both included, for each image: int64 [N, 1, 1, 1]."""
    return torch.randint(low, high + 1, [len(images), 1, 1, 1], device=images.device)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentations


def recolor(images: torch.Tensor) -> torch.Tensor:
    """Change brightness by -0.5 to 0.5, and saturation and contrast by factors from 0 to 2 and from 0.5 to 1.5.

    Saturation scales the distance of a pixel from its gray value, and contrast that of all values from the mean of the
    image.
    """
    if images.shape[1] in (2, 4):
        return torch.cat([recolor(images[:, :-1]), images[:, -1:]], dim=1)
    images = images + _uniform(images, -0.5, 0.5)
    gray = images.mean(dim=1, keepdim=True)  # [N, 1, H, W]
    images = gray + (images - gray) * _uniform(images, 0, 2)
    mean = images.mean(dim=[1, 2, 3], keepdim=True)  # [N, 1, 1, 1]
    return mean + (images - mean) * _uniform(images, 0.5, 1.5)


def translate(images: torch.Tensor) -> torch.Tensor:
    """Shift by whole pixels, by up to an eighth of each side; what comes into view is zero."""
    height, width = images.shape[2:]
    rows = _shift_matrices(images, height)  # [N, 1, H, H]
    columns = _shift_matrices(images, width)  # [N, 1, W, W]
    return rows @ images @ columns.transpose(2, 3)


def _shift_matrices(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return matrices [N, 1, side, side] that shift a vector; row i has its one in column i + shift."""
    longest = round(side * MAX_SHIFT)
    shift = _random_integers(images, -longest, longest)
    positions = torch.arange(side, device=images.device)
    return (positions[:, None] + shift == positions).to(images.dtype)


def cut_out(images: torch.Tensor) -> torch.Tensor:
    """Set a rectangle of half the sides to zero; its center is anywhere in the image."""
    height, width = images.shape[2:]
    inside = _random_interval(images, height).unsqueeze(3) & _random_interval(images, width).unsqueeze(2)
    return images.masked_fill(inside, 0)  # [N, 1, H, W]


def _random_interval(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return which positions along a side are in a random interval, bool [N, 1, side]."""
    length = round(side * CUTOUT_SIZE)
    first = _random_integers(images, 0, side)[..., 0] - length // 2  # [N, 1, 1]
    positions = torch.arange(side, device=images.device)
    return (positions >= first) & (positions < first + length)


def flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image, left to right, with a probability of 1/2."""
    return torch.where(_uniform(images) < 0.5, images.flip(3), images)


def flip_and_translate(images: torch.Tensor) -> torch.Tensor:
    """Do both: changes that keep the meaning of an image."""
    return translate(flip(images))


POLICY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'color': recolor,
    'translation': translate,
    'cutout': cut_out,
}
