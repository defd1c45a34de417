"""The activations of one layer of a generator, at points of the image.

Points are (x, y) in pixels of the image, with (0, 0) at the center of the pixel at the top left. Maps are smaller than
the image in most layers, and those of StyleGAN3 extend beyond it by a margin. Legend: N points, C channels, H W height
and width of the image, h w of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dataset_format.sizes import sides
from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt, join_excerpts

_MAX_NAMES_LISTED = 40


def layer_names(G: Any) -> list[str]:
    """Return the names of the layers of `G.synthesis` whose maps can be used, from coarse to fine.

    They are the blocks `b4`, `b8`, ... of StyleGAN2, and the layers `L0_36_512`, ... of StyleGAN3 without the last
    one, which is the image.
    """
    synthesis = G.synthesis
    names = getattr(synthesis, 'layer_names', None)
    if names is not None:
        return list(names)[:-1]
    return [f'b{level}' for level in getattr(synthesis, 'block_resolutions', ())]


def check_layer(G: Any, name: str) -> None:
    """Raise InvalidArgument, argument 'feature_layer', if the generator has no layer of this name."""
    names = layer_names(G)
    if name not in names:
        listed = join_excerpts(names, _MAX_NAMES_LISTED, 40) if names else 'none that is known'
        raise InvalidArgument(
            'feature_layer', f'Unknown layer {excerpt(name, 40)!r}: the layers of this network are {listed}.'
        )


class FeatureMaps:
    """Render images together with the map of one layer.

    Args:
        G: Generator.
        name: One of `layer_names`.
        synthesis: What to call in place of `G.synthesis`, such as a copy of it.

    Raises:
        InvalidArgument: The network has no layer of this name (argument 'feature_layer').
    """

    def __init__(self, G: Any, name: str, synthesis: Any = None):
        check_layer(G, name)
        self.name = name
        self._synthesis = G.synthesis if synthesis is None else synthesis
        self._module = getattr(self._synthesis, name)
        self._image_size = sides(G.img_resolution)

    def render(self, ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Render one image in full precision; gradients flow to `ws` [1, num_ws, w_dim].

        Returns:
            The image float32 [1, channels, H, W], and the map [C, h, w].
        """
        maps: list[torch.Tensor] = []

        def keep(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
            maps.append(output[0] if isinstance(output, tuple) else output)  # blocks of StyleGAN2 also return an image

        handle = self._module.register_forward_hook(keep)
        try:
            image = self._synthesis(ws, noise_mode='const', force_fp32=True)
        finally:
            handle.remove()
        return image, maps[0][0]

    def at(self, features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Return the values of a map [C, h, w] at points [N, 2] of the image, by bilinear interpolation: [N, C].

        Beyond its edges the map continues as at the edge.
        """
        scale, offset = self._scale_and_offset(features)
        return sample(features, points * scale + offset)

    def weights(self, mask: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return the values of a mask [H, W] at the pixels of a map [C, h, w], by bilinear interpolation: [h, w]."""
        scale, offset = self._scale_and_offset(features)
        height, width = features.shape[1:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
        pixels = torch.stack([x, y], dim=2).reshape(-1, 2).to(features)
        return sample(mask[None], (pixels - offset) / scale).reshape(height, width)

    def _scale_and_offset(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [2] and [2] with which a point p of the image is at p * scale + offset in the map.

        The centers of image and map coincide.
        """
        height, width = self._image_size
        map_height, map_width = features.shape[1:]
        rate = getattr(self._module, 'out_sampling_rate', None)  # StyleGAN3: pixels of the map per longer image side
        if rate is None:
            scale = [map_width / width, map_height / height]
        else:
            scale = [float(rate) / max(height, width)] * 2
        offset = [
            (map_side - 1) / 2 - (side - 1) / 2 * factor
            for map_side, side, factor in zip((map_width, map_height), (width, height), scale)
        ]
        return as_points([scale], features)[0], as_points([offset], features)[0]


def sample(features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the values of a map [C, h, w] at positions (x, y) [N, 2] in its own pixels, by bilinear interpolation.

    Differentiable in both; positions outside have the values of the nearest edge.

    Returns:
        [N, C] of the type of the map.
    """
    size = torch.tensor([features.shape[2], features.shape[1]]).to(features)
    grid = (2 * positions.to(features) + 1) / size - 1  # the pixels are from -1 to +1, edge to edge
    values = torch.nn.functional.grid_sample(
        features[None], grid[None, None], mode='bilinear', padding_mode='border', align_corners=False
    )
    return values[0, :, 0].t()


def offsets(radius: float, spacing: float, is_round: bool, like: torch.Tensor) -> torch.Tensor:
    """Return the points of a regular grid around 0, the nearest first: [M, 2] of the type and device of `like`.

    Args:
        radius: Largest distance from 0; without `is_round`, the largest absolute value of x and of y.
        spacing: Distance of neighbors.
        is_round: A disc, not a square.
        like: Tensor.
    """
    steps = int(radius / spacing + 1e-6)
    axis = torch.arange(-steps, steps + 1, dtype=torch.float64) * spacing
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    points = torch.stack([x, y], dim=2).reshape(-1, 2)
    distance = points.norm(dim=1)
    if is_round:
        points, distance = points[distance <= radius + 1e-6], distance[distance <= radius + 1e-6]
    return points[distance.argsort(stable=True)].to(like)


def as_points(points: Sequence[Sequence[float]], like: torch.Tensor) -> torch.Tensor:
    """Return points as a tensor [N, 2] of the type and device of `like`."""
    return torch.tensor([[x, y] for x, y in points], dtype=torch.float64).to(like).reshape(-1, 2)
