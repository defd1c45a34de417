"""The sizes that images may have, in one place, and what is called a resolution.

The networks begin with a small map of pixels and double it, again and again. So both sides of an image are a small
number times the same power of two: 96x64 is 3x2 times 32, 48x48 is 3x3 times 16. The numbers go from 2 to 8, which
leaves no image more than four times as wide as it is high, or the reverse. Squares of 4, 8, 16 … pixels are among these
sizes.

A resolution, wherever networks and datasets have one, is a number for square images and [height, width] for others.
"""

import math
from collections.abc import Sequence

LARGEST_START_SIDE = 8
SMALLEST_SIDE = 4
SIZE_RULE = f'both sides must be 2 to {LARGEST_START_SIDE} times the same power of two'

Resolution = int | list[int]


def sides(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a resolution."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return int(height), int(width)


def as_resolution(height: int, width: int) -> Resolution:
    """The resolution of images of a height and width: a number where they are square."""
    return height if height == width else [height, width]


def describe_size(resolution: int | Sequence[int]) -> str:
    """'96x64': width x height."""
    height, width = sides(resolution)
    return f'{width}x{height}'


def is_usable_size(width: int, height: int) -> bool:
    """Whether networks can make images of this size (`training.networks_stylegan2` halves them in the same way)."""
    if min(width, height) < SMALLEST_SIDE:
        return False
    while width % 2 == 0 and height % 2 == 0 and min(width, height) >= 4 and width * height >= 32:
        width, height = width // 2, height // 2
    return max(width, height) <= LARGEST_START_SIDE


def level_of(height: int, width: int) -> int:
    """The power of two that stands for a size where channels are counted: the nearest to a square's side with as many
    pixels."""
    return 2 ** (((2 * height * width).bit_length() - 1) // 2)


def nearest_usable_sizes(width: int, height: int, count: int = 3) -> list[tuple[int, int]]:
    """The usable sizes (width, height) that differ least from a size: in both sides, and in its proportions."""

    def difference(size: tuple[int, int]) -> float:
        wider, higher = math.log(size[0] / width), math.log(size[1] / height)
        return abs(wider) + abs(higher) + abs(wider - higher)

    starts = range(2, LARGEST_START_SIDE + 1)
    steps = [2**exponent for exponent in range(max(width, height).bit_length() + 1)]
    sizes = {(x * step, y * step) for x in starts for y in starts for step in steps}
    return sorted((size for size in sizes if is_usable_size(*size)), key=lambda size: (difference(size), size))[:count]


def size_mistake(width: int, height: int) -> str:
    """What is wrong with a size, and the way out; it completes '...: '."""
    nearest = [f'{x}x{y}' for x, y in nearest_usable_sizes(width, height)]
    return (
        f'{width}x{height} is not a size that the networks can have ({SIZE_RULE}, and at least {SMALLEST_SIDE}); '
        f'the nearest are {", ".join(nearest[:-1])} and {nearest[-1]}'
    )
