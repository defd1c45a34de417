"""Other image channels: gray and RGB, each with or without alpha.

Gray becomes RGB with equal channels, RGB becomes its luma, alpha that is added is opaque (+1), and alpha that is
dropped was taken for opaque. Both networks are linear in the channels where they meet the image, so this is exact,
apart from activations at their clamp. Only a discriminator of the architecture 'skip' whose alpha is dropped differs,
at the border of the image, where it sees a blurred alpha channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from network_files.changes.architectures import construct_like, copy_equal_shapes, is_stylegan3, keywords_of, layers_of
from network_files.changes.widths import NUDGE

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as when dataset_tool.py makes images gray
_SEED = 2


class ColorMap(NamedTuple):
    """An affine map between the channels of two kinds of images: y = matrix · x + offset."""

    matrix: torch.Tensor  # [new, old]
    offset: torch.Tensor  # [new]

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images [N, old, H, W] in [-1, +1] to [N, new, H, W]."""
        converted = torch.einsum('oi,nihw->nohw', self.matrix.to(images), images)
        return converted + self.offset.to(images)[:, None, None]


def color_map(old: int, new: int) -> ColorMap:
    """Return the map from images of `old` channels to images of `new` ones, each 1 to 4."""
    old_colors, new_colors = (1 if channels <= 2 else 3 for channels in (old, new))
    matrix, offset = torch.zeros(new, old), torch.zeros(new)
    if old_colors == new_colors:
        matrix[:new_colors, :old_colors] = torch.eye(new_colors)
    elif old_colors == 1:
        matrix[:3, 0] = 1
    else:
        matrix[0, :3] = torch.tensor(LUMA)
    if new > new_colors and old > old_colors:
        matrix[-1, -1] = 1
    elif new > new_colors:
        offset[-1] = 1
    return ColorMap(matrix, offset)


def change_colors(network: Any, channels: int) -> Any:
    """Return a network, G or D, for images of another number of channels."""
    changed = construct_like(network, {**keywords_of(network), 'img_channels': channels}, _SEED)
    copy_equal_shapes(network, changed)
    if hasattr(network, 'synthesis'):
        _write_other_colors(network, changed, color_map(network.img_channels, channels))
    else:
        _read_other_colors(network, changed, color_map(channels, network.img_channels))
    return changed


def to_rgb_layers(G: Any) -> list[Any]:
    """Return the layers of a generator that convert to image channels, lowest resolution first."""
    if is_stylegan3(G):
        return layers_of(G)[-1:]
    blocks = [getattr(G.synthesis, f'b{level}') for level in G.synthesis.block_resolutions]
    return [block.torgb for block in blocks if block.num_torgb]


def _write_other_colors(old: Any, new: Any, colors: ColorMap) -> None:
    """Convert all ToRGB layers. Their results are added, so the offset belongs to the last one only."""
    for before, layer in zip(to_rgb_layers(old), to_rgb_layers(new)):
        layer.weight.copy_(torch.einsum('no,oihw->nihw', colors.matrix, before.weight))
        layer.bias.copy_(colors.matrix @ before.bias)
        layer.affine.weight.copy_(before.affine.weight)
        layer.affine.bias.copy_(before.affine.bias)
    layer.bias.add_(colors.offset / getattr(new.synthesis, 'output_scale', 1))


def _from_rgb_layers(D: Any) -> Iterator[Any]:
    blocks = [getattr(D, f'b{level}') for level in D.block_resolutions]
    for block in (*blocks, D.b4):
        if hasattr(block, 'fromrgb'):
            yield block.fromrgb


def _read_other_colors(old: Any, new: Any, colors: ColorMap) -> None:
    """Convert all layers that read the image. One that ignores alpha gets tiny weights for its distance from opaque."""
    is_ignored = colors.matrix.abs().sum(dim=0) == 0  # [new]
    for before, layer in zip(_from_rgb_layers(old), _from_rgb_layers(new)):
        nudge = layer.weight * (NUDGE * is_ignored[:, None, None])
        weight = before.weight * before.weight_gain  # [O, old, 1, 1]
        layer.weight.copy_(torch.einsum('oihw,in->onhw', weight, colors.matrix) / layer.weight_gain)
        layer.bias.copy_(before.bias + weight[:, :, 0, 0] @ colors.offset)
        layer.weight.add_(nudge)
        layer.bias.sub_(nudge.sum(dim=[1, 2, 3]) * layer.weight_gain)
