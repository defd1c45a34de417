"""Feature maps of a layer: pictures of channels and principal components, the histogram, and the spectrum.

Legend: C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image

from torch_utils import images

TILES = 64
"""Channels in one picture."""

_COLUMNS, _TILE_SIDE = 8, 96
_BINS = 64
_SIDE = 512  # pixels of one map
_MAX_VALUES = 2**20  # of a histogram

# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def channels_picture(maps: np.ndarray) -> PIL.Image.Image:
    """Return channels [C, H, W] as gray tiles, each from its own darkest to its brightest value."""
    factor = max(_TILE_SIDE // max(maps.shape[1:]), 1)
    step = -(-max(maps.shape[1:]) // _TILE_SIDE)
    tiles = np.stack([_stretched(channel) for channel in maps[:, ::step, ::step]])[:, None]
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)])
    columns = min(_COLUMNS, len(tiles))
    return images.to_pil(images.image_grid(tiles, (columns, -(-len(tiles) // columns))))


def colors_picture(maps: np.ndarray) -> PIL.Image.Image:
    """Return the three directions in which channels [C, H, W] differ most as red, green and blue (PCA)."""
    num_channels, height, width = maps.shape
    values = maps.reshape(num_channels, -1).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    _variances, directions = np.linalg.eigh(values @ values.T)  # ascending
    directions = directions[:, ::-1][:, :3]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, range(directions.shape[1])])  # the same for every picture
    colors = (directions.T @ values).reshape(-1, height, width)
    colors = np.stack([_stretched(color) for color in colors])
    colors = np.concatenate([colors, np.zeros([3 - len(colors), height, width], np.uint8)])
    return _enlarged(images.to_pil(colors))


def spectrum(maps: np.ndarray) -> np.ndarray:
    """Return the mean power spectrum of the channels [C, H, W] in decibels, the lowest frequency in the middle."""
    height, width = maps.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    window /= np.sqrt(np.square(window).sum())
    centered = maps - maps.mean(axis=(1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(centered * window))).mean(axis=0)
    return 10 * np.log10(np.fft.fftshift(power) + 1e-12)


def spectrum_picture(power: np.ndarray) -> PIL.Image.Image:
    """Return a spectrum [H, W] as a gray picture."""
    return _enlarged(images.to_pil(_stretched(power)))


def _enlarged(picture: PIL.Image.Image) -> PIL.Image.Image:
    factor = max(_SIDE // max(picture.size), 1)
    return picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Map the 1st and the 99th percentile to black and white, uint8."""
    low, high = np.percentile(values, [1, 99])
    return (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def histogram(maps: np.ndarray) -> dict[str, Any]:
    """Return counts, limits, mean and standard deviation of the values in maps."""
    values = maps.reshape(-1)
    values = values[:: -(-len(values) // _MAX_VALUES)]
    counts, edges = np.histogram(values, _BINS)
    return {
        'counts': counts.tolist(),
        'low': float(edges[0]),
        'high': float(edges[-1]),
        'mean': float(values.mean()),
        'deviation': float(values.std()),
    }


def radial_means(power: np.ndarray) -> list[float]:
    """Return the mean of a spectrum over circles, from the lowest frequency to that of single pixels."""
    height, width = power.shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((y - height // 2) / height, (x - width // 2) / width)  # cycles per pixel
    bins = np.minimum((radius * max(height, width)).round().astype(int), max(height, width) // 2)
    sums, counts = np.bincount(bins.ravel(), power.ravel()), np.bincount(bins.ravel())
    return [float(value) for value in sums[counts > 0] / counts[counts > 0]]
