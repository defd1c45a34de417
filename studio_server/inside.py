"""What a network computes on the way to a picture: maps of features, their histogram and their spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Choice, Integer, Record, Text
from dnnlib.text import excerpt
from studio_server import pictures
from studio_server.networks import Network
from studio_server.picture_specs import Latent
from torch_utils import images

RULES = Record(
    {'layer': Text(100), 'show': Choice(('channels', 'colors', 'spectrum')), 'first': Integer(0, 10**6)},
    required=['layer', 'show'],
)
IMAGE = 'image'
"""Name of the picture itself among the layers."""

_LAYER_CLASSES = ('SynthesisLayer', 'ToRGBLayer', 'SynthesisInput')
_TILES, _COLUMNS, _TILE_SIDE = 64, 8, 96
_BINS = 64
_SIDE = 512  # pixels of one map
_MAX_VALUES = 2**20  # of a histogram


def layer_names(G: Any) -> list[str]:
    """Return the layers of a generator, coarse to fine, and the picture at the end."""
    names = [name for name, module in G.synthesis.named_modules() if type(module).__name__ in _LAYER_CLASSES]
    return [*names, IMAGE]


def look(network: Network, latent: Latent, request: dict[str, Any]) -> tuple[dict[str, Any], PIL.Image.Image]:
    """Return the numbers and the picture of a layer.

    Args:
        network: The network.
        latent: The inputs of the picture.
        request: By `RULES`.

    Raises:
        ValueError: There is no such layer.
    """
    maps = _maps_of(network, latent, request['layer'])  # C H W
    first = min(request.get('first', 0), len(maps) - 1)
    picture = {
        'channels': lambda: _channels(maps[first : first + _TILES]),
        'colors': lambda: _colors(maps),
        'spectrum': lambda: _spectrum_picture(spectrum_of(maps)),
    }[request['show']]()
    spectrum = spectrum_of(maps)
    return {
        'shape': list(maps.shape),
        'first': first,
        'histogram': _histogram(maps),
        'radial': _radial(spectrum),
    }, picture


def _maps_of(network: Network, latent: Latent, layer: str) -> np.ndarray:
    """Return what a layer computes, float32 [C, H, W]."""
    if layer not in layer_names(network.G):
        raise InvalidArgument('layer', f'This network has no layer {excerpt(layer, 40)!r}.')
    module = network.G.synthesis if layer == IMAGE else network.G.synthesis.get_submodule(layer)
    caught: list[torch.Tensor] = []
    with pictures.hooked(module, lambda _module, _inputs, output: caught.append(output)):
        pictures.render(network, latent)
    maps = caught[0][0].detach().to(torch.float32).cpu().numpy()
    return np.nan_to_num(maps)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def _channels(maps: np.ndarray) -> PIL.Image.Image:
    """Show channels as gray tiles, each from its own darkest to its brightest value."""
    factor = max(_TILE_SIDE // max(maps.shape[1:]), 1)
    step = -(-max(maps.shape[1:]) // _TILE_SIDE)
    tiles = np.stack([_stretched(channel) for channel in maps[:, ::step, ::step]])[:, None]
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)])
    columns = min(_COLUMNS, len(tiles))
    return images.to_pil(images.image_grid(tiles, (columns, -(-len(tiles) // columns))))


def _colors(maps: np.ndarray) -> PIL.Image.Image:
    """Show the three directions in which the channels differ most as red, green and blue (PCA)."""
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


def spectrum_of(maps: np.ndarray) -> np.ndarray:
    """Return the mean power spectrum of the channels [C, H, W] in decibels, the lowest frequency in the middle."""
    height, width = maps.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    window /= np.sqrt(np.square(window).sum())
    centered = maps - maps.mean(axis=(1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(centered * window))).mean(axis=0)
    return 10 * np.log10(np.fft.fftshift(power) + 1e-12)


def _spectrum_picture(spectrum: np.ndarray) -> PIL.Image.Image:
    return _enlarged(images.to_pil(_stretched(spectrum)))


def _enlarged(picture: PIL.Image.Image) -> PIL.Image.Image:
    factor = max(_SIDE // max(picture.size), 1)
    return picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Map the 1st and the 99th percentile to black and white, uint8."""
    low, high = np.percentile(values, [1, 99])
    return (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _histogram(maps: np.ndarray) -> dict[str, Any]:
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


def _radial(spectrum: np.ndarray) -> list[float]:
    """Return the mean of a spectrum over circles, from the lowest frequency to that of single pixels."""
    height, width = spectrum.shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((y - height // 2) / height, (x - width // 2) / width)  # cycles per pixel
    bins = np.minimum((radius * max(height, width)).round().astype(int), max(height, width) // 2)
    sums, counts = np.bincount(bins.ravel(), spectrum.ravel()), np.bincount(bins.ravel())
    return [float(value) for value in sums[counts > 0] / counts[counts > 0]]
