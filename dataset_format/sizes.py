"""The image sizes that networks and datasets support, and what a resolution is.

The networks start from a small feature map and double it repeatedly. So both sides of an image are a small number times
the same power of two: 96x64 is 3x2 times 32, 48x48 is 3x3 times 16. The small numbers range from 2 to 8, which limits
the aspect ratio to 4:1. Squares of 4, 8, 16, ... pixels are among these sizes.

A resolution is a single number for square images and [height, width] for others, in networks and datasets alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LARGEST_START_SIDE = 8
SMALLEST_SIDE = 4
SIZE_RULE = f'both sides must be 2 to {LARGEST_START_SIDE} times the same power of two'

MAX_DATASET_PIXELS = 2**26  # 8192x8192: no machine trains networks of larger images

Resolution = int | list[int]


def sides(resolution: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a resolution."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return int(height), int(width)


def as_resolution(height: int, width: int) -> Resolution:
    """Return the resolution of images of a height and width: a single number if they are square."""
    return height if height == width else [height, width]


def describe_size(resolution: int | Sequence[int]) -> str:
    """Format a resolution as width x height, such as '96x64'."""
    height, width = sides(resolution)
    return f'{width}x{height}'


def is_usable_size(width: int, height: int) -> bool:
    """Return whether networks can generate images of this size; `training.networks_stylegan2` halves it likewise."""
    if min(width, height) < SMALLEST_SIDE:
        return False
    return max(width, height) >> num_halvings(height, width) <= LARGEST_START_SIDE


def num_halvings(height: int, width: int) -> int:
    """Return how often networks halve images of this size, until a few pixels remain."""
    count = 0
    while width % 2 == 0 and height % 2 == 0 and min(width, height) >= 4 and width * height >= 32:
        width, height, count = width // 2, height // 2, count + 1
    return count


def level_of(height: int, width: int) -> int:
    """Return the power of two that stands for a size when channels are counted.

    It is the power of two nearest to the side of a square with as many pixels.
    """
    return 2 ** (((2 * height * width).bit_length() - 1) // 2)


def nearest_usable_sizes(width: int, height: int, count: int = 3) -> list[tuple[int, int]]:
    """Return the usable sizes (width, height) that differ least from a size, in both sides and in aspect ratio."""

    def difference(size: tuple[int, int]) -> float:
        log_width_ratio, log_height_ratio = math.log(size[0] / width), math.log(size[1] / height)
        return abs(log_width_ratio) + abs(log_height_ratio) + abs(log_width_ratio - log_height_ratio)

    starts = range(2, LARGEST_START_SIDE + 1)
    steps = [2**exponent for exponent in range(max(width, height).bit_length() + 1)]
    sizes = {(x * step, y * step) for x in starts for y in starts for step in steps}
    return sorted((size for size in sizes if is_usable_size(*size)), key=lambda size: (difference(size), size))[:count]


def describe_unusable_size(width: int, height: int) -> str:
    """Describe why a size is not usable and which sizes are, as a clause for an error message."""
    nearest = [f'{x}x{y}' for x, y in nearest_usable_sizes(width, height)]
    return (
        f'{width}x{height} is not a supported size ({SIZE_RULE}, and at least {SMALLEST_SIDE}); '
        f'the nearest are {", ".join(nearest[:-1])} and {nearest[-1]}'
    )
