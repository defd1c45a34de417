"""Mathematics of equivariance: whether moving a generator's input moves its image (arXiv 2106.12423, appendix E).

An image under a transformation of the input is compared with the image that was rendered without it and then moved by
an ideal operator for sampled signals, on the pixels where the operator sees nothing from outside the image. The score
is the peak signal-to-noise ratio over all such pixels of all images.

N images, C channels, H height, W width. x points to the right and y down; positive angles turn an image
counterclockwise. Masks [1, 1, H, W] are 1 where an operator's result depends on pixels of the image only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from generation.image_transforms import make_transform
from metrics.feature_matrix import FeatureArray
from torch_utils.ops.upfirdn2d import upfirdn2d

_LOBES = 3  # of the Lanczos window on each side
_OVERSAMPLING = 4  # of the image that a rotation interpolates
_SINC_REACH = 64  # pixels to which a sinc, which never ends, is followed
_MAX_SHIFT = 1 / 8  # of the side of an image
_RANGE = 2  # between the smallest and the largest value of an image

Pair = tuple[torch.Tensor, torch.Tensor]


def psnr(errors: FeatureArray, weights: FeatureArray) -> float:
    """Return the peak signal-to-noise ratio in dB of images with values from -1 to +1, computed in float64.

    Args:
        errors: Sum of the squared errors of each image [N], in any unit.
        weights: Number of the values that each sum is over [N], in the same unit.

    Raises:
        ValueError: The sums are over nothing.
    """
    total, count = (np.sum(np.asarray(values), dtype=np.float64) for values in (errors, weights))
    if not count > 0:
        raise ValueError('The images are too small to compare: no pixel is far enough from the edges.')
    return 10 * math.log10(_RANGE**2 * count / total) if total > 0 else math.inf


def psnr_influences(errors: FeatureArray, weights: FeatureArray) -> np.ndarray:
    """Return the first-order change of `psnr` with the weight of each image, in dB, up to a constant: float64 [N]."""
    errors, weights = (np.asarray(values, dtype=np.float64) for values in (errors, weights))
    if not errors.any():
        return np.zeros(len(errors))  # the ratio is infinite
    return -10 / math.log(10) * (errors / errors.mean() - weights / weights.mean())


# ---------------------------------------------------------------------------------------------------------------------
# Operators


def translate_by_pixels(images: torch.Tensor, dx: int, dy: int) -> Pair:
    """Move images [N, C, H, W] by whole pixels; zeros follow. Return them with their mask."""
    padding = [dx, -dx, dy, -dy]
    return upfirdn2d(images, None, padding=padding), _untouched_by(padding, images)


def translate(images: torch.Tensor, dx: float, dy: float) -> Pair:
    """Move images [N, C, H, W] by any number of pixels with a Lanczos filter. Return them with their mask."""
    (taps_x, left), (taps_y, top) = (_lanczos_shift(distance) for distance in (dx, dy))
    f = torch.outer(taps_y, taps_x).to(images.device)
    overhang = 2 * _LOBES - 1
    padding = [left, overhang - left, top, overhang - top]
    return upfirdn2d(images, f, padding=padding, flip_filter=True), _untouched_by(padding, images)


def _lanczos_shift(distance: float) -> tuple[torch.Tensor, int]:
    """Return the taps of a correlation that moves a signal, and the padding before the signal that aligns it."""
    whole = math.ceil(-distance)  # pixel i of the result is pixel i - distance, between i + whole - 1 and i + whole
    offsets = torch.arange(-_LOBES, _LOBES) + whole + distance
    taps = torch.sinc(offsets) * _lanczos_window(offsets)
    return (taps / taps.sum()).to(torch.float32), _LOBES - whole


def rotate(images: torch.Tensor, angle: float) -> Pair:
    """Rotate images [N, C, H, W] around their center, by radians. Return them with their mask.

    The result is band-limited: of the square of frequencies that the pixels of the image represent, only those remain
    that the rotated pixels can represent as well. It is interpolated linearly from an oversampled image.
    """
    up = _OVERSAMPLING
    f = common_band_filter(angle, up, images.device)
    reach = f.shape[0] // 2
    height, width = images.shape[2:]
    # Sample k of the oversampled image is at pixel (k - reach) / up.
    fine = upfirdn2d(images, f, up=up, padding=2 * [2 * reach, 2 * reach - up + 1], gain=up**2)
    x, y = (position * up for position in _rotated_positions(angle, height, width))
    grid = torch.stack(
        [(position + reach) / (side - 1) * 2 - 1 for position, side in ((x, fine.shape[3]), (y, fine.shape[2]))], dim=2
    )
    grid = grid.to(images.device, torch.float32).expand(len(images), -1, -1, -1)
    rotated = torch.nn.functional.grid_sample(fine, grid, align_corners=True)

    inside = torch.ones([height, width], dtype=torch.bool)
    for position, side in ((x, width), (y, height)):
        nearest = position.round()
        inside &= (nearest >= reach - 1) & (nearest <= (side - 1) * up - reach)
    return rotated, inside.to(images.device, images.dtype)[None, None]


def limit_to_rotated_band(images: torch.Tensor, angle: float) -> Pair:
    """Filter images [N, C, H, W] that a generator has rotated by an angle, so that they have the band of `rotate`.

    Called pseudo-rotation in the paper. Return the images with their mask.
    """
    f = common_band_filter(-angle, 1, images.device)
    padding = [f.shape[0] // 2] * 4
    return upfirdn2d(images, f, padding=padding), _untouched_by(padding, images)


def common_band_filter(angle: float, up: int, device: torch.device) -> torch.Tensor:
    """Return the filter for the frequencies that two grids of pixels have in common, one of which is rotated.

    The ideal filter of a grid is sinc(x)·sinc(y), that of both the convolution of one with the rotated other. It is
    limited by a window made in the same way of Lanczos windows.

    Args:
        angle: Rotation in radians.
        up: Samples of the filter for each pixel.
        device: Where the filter is needed.

    Returns:
        float32 [taps, taps] with the center in the middle. A constant image upsampled with it remains the same, up to a
        gain of up².
    """
    ideal = _convolved_with_rotated(torch.sinc, _SINC_REACH, angle, up, device)
    window = _convolved_with_rotated(_lanczos_window, 2 * _LOBES, angle, up, device)
    f = ideal * window
    for row, column in itertools.product(range(up), repeat=2):
        phase = f[row::up, column::up]
        phase /= phase.sum() * up**2
    return f


def _convolved_with_rotated(
    kernel: Callable[[torch.Tensor], torch.Tensor], reach: int, angle: float, up: int, device: torch.device
) -> torch.Tensor:
    """Return k(x)·k(y) convolved with itself rotated by an angle, on the samples nearer than 2·`_LOBES` pixels."""
    last_sample = reach * up - 1
    samples = torch.arange(-last_sample, last_sample + 1, device=device) / up
    last_tap = 2 * _LOBES * up - 1
    taps = torch.arange(-last_tap, last_tap + 1, device=device) / up
    along_x, along_y = _turned(samples, samples[:, None], -angle)
    rotated = kernel(along_x) * kernel(along_y)
    straight = kernel(taps[:, None] - samples)  # separable: once for the rows, once for the columns
    return straight @ rotated @ straight.T


def _lanczos_window(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < _LOBES, torch.sinc(x / _LOBES), torch.zeros_like(x))


def _turned(x: torch.Tensor, y: torch.Tensor, angle: float) -> Pair:
    """Return the points that a rotation by an angle, from x towards y, moves points to."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * x - sine * y, sine * x + cosine * y


def _rotated_positions(angle: float, height: int, width: int) -> Pair:
    """Return where in an image each pixel of the rotated image comes from, in pixels: x and y, float64 [H, W]."""
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    columns, rows = (torch.arange(side, dtype=torch.float64) for side in (width, height))
    x, y = _turned(columns - center_x, rows[:, None] - center_y, angle)
    return x + center_x, y + center_y


def _untouched_by(padding: list[int], images: torch.Tensor) -> torch.Tensor:
    """Return the mask of the pixels that a filter computes without the padding [x0, x1, y0, y1] around the image."""
    height, width = images.shape[2:]
    left, right, top, bottom = (max(side, 0) for side in padding)
    mask = images.new_zeros([1, 1, height, width])
    mask[:, :, top : height - bottom, left : width - right] = 1
    return mask


# ---------------------------------------------------------------------------------------------------------------------
# Transformations that are drawn at random


class Transformation(Protocol):
    """A transformation of images, as generators and as operators apply it."""

    def matrix(self, side: int) -> np.ndarray:
        """Return the transform [3, 3] as `generation.image_transforms` defines it; `side` pixels are an image side."""

    def compare(self, original: torch.Tensor, transformed: torch.Tensor) -> Pair:
        """Return differences between the ideal and the actual image [N, C, H, W], and the mask of those that count.

        Args:
            original: Images [N, C, H, W] rendered without the transformation.
            transformed: The same images rendered with it.
        """


@dataclass(frozen=True)
class Translation:
    """Translation by pixels, whole ones or not: `operator` is `translate_by_pixels` or `translate`."""

    dx: float
    dy: float
    operator: Callable[[torch.Tensor, Any, Any], Pair]

    def matrix(self, side: int) -> np.ndarray:
        return make_transform(shift=(self.dx / side, self.dy / side))

    def compare(self, original: torch.Tensor, transformed: torch.Tensor) -> Pair:
        ideal, mask = self.operator(original, self.dx, self.dy)
        return ideal - transformed, mask


@dataclass(frozen=True)
class Rotation:
    """Rotation around the center, by radians."""

    angle: float

    def matrix(self, side: int) -> np.ndarray:
        return make_transform(degrees=math.degrees(self.angle))

    def compare(self, original: torch.Tensor, transformed: torch.Tensor) -> Pair:
        ideal, ideal_mask = rotate(original, self.angle)
        actual, actual_mask = limit_to_rotated_band(transformed, self.angle)
        return ideal - actual, ideal_mask * actual_mask


def transformation(kind: str, numbers: np.ndarray, height: int, width: int) -> Transformation:
    """Return the transformation of images [H, W] that three numbers from -1 to +1 stand for.

    Args:
        kind: 'integer translation', 'fractional translation' or 'rotation'.
        numbers: Translation along x and y, where 1 is an eighth of the image, and angle, where 1 is half a turn.
        height: H.
        width: W.
    """
    x, y, turn = numbers.tolist()
    if kind == 'rotation':
        return Rotation(turn * math.pi)
    dx, dy = x * _MAX_SHIFT * width, y * _MAX_SHIFT * height
    if kind == 'integer translation':
        return Translation(round(dx), round(dy), translate_by_pixels)
    if kind == 'fractional translation':
        return Translation(dx, dy, translate)
    raise ValueError(f'Unknown kind of transformation {kind!r}.')
