"""What a network computes on the way to a picture, and what of it a page can ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.schema import Choice, Integer, Record, Text
from dnnlib.text import excerpt
from generation import feature_pictures
from studio_server import pictures
from studio_server.networks import Network
from studio_server.picture_specs import Latent

RULES = Record(
    {'layer': Text(100), 'show': Choice(('channels', 'colors', 'spectrum')), 'first': Integer(0, 10**6)},
    required=['layer', 'show'],
)
IMAGE = 'image'
"""Name of the picture itself among the layers."""

_LARGEST = 1e15  # of a broken network, so that squares are finite
_LAYER_CLASSES = ('SynthesisLayer', 'ToRGBLayer', 'SynthesisInput')


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
    spectrum = feature_pictures.spectrum(maps)
    picture = {
        'channels': lambda: feature_pictures.channels_picture(maps[first : first + feature_pictures.TILES]),
        'colors': lambda: feature_pictures.colors_picture(maps),
        'spectrum': lambda: feature_pictures.spectrum_picture(spectrum),
    }[request['show']]()
    return {
        'shape': list(maps.shape),
        'first': first,
        'histogram': feature_pictures.histogram(maps),
        'radial': feature_pictures.radial_means(spectrum),
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
    return np.nan_to_num(maps).clip(-_LARGEST, _LARGEST)
