"""Shift and rotate the images of generators that are equivariant: those of StyleGAN3 (arXiv 2106.12423).

Such a generator has a buffer `synthesis.input.transform`, the inverse of the transform of its images. Transforms are
float64 [3, 3] for homogeneous coordinates: x to the right, y down, the center of the image at 0, in image sides (the
longer one of images that are not square).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument

Shift = tuple[float, float]
"""To the right and down, in image sides."""

MAX_SHIFT = 1000  # image sides; float32 still resolves a thousandth of a side there
_MAX_TRANSFORMS = 1000


def make_transform(shift: Shift = (0, 0), degrees: float = 0) -> np.ndarray:
    """Return the transform that rotates counterclockwise around the center of the image, and then shifts."""
    angle = math.radians(degrees % 360)
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, sine, shift[0]], [-sine, cosine, shift[1]], [0, 0, 1]], dtype=np.float64)


def combine(shifts: Sequence[Shift] | None, rotations: Sequence[float] | None) -> list[np.ndarray | None]:
    """Return the transforms of a list of shifts and a list of rotations in degrees; a single one applies to all others.

    Without either list, the only transform is None: that of the generator itself.

    Raises:
        InvalidArgument: Argument 'translate' or 'rotate': the lists do not match, or are too long.
    """
    for argument, values in (('translate', shifts), ('rotate', rotations)):
        if values is not None and len(values) > _MAX_TRANSFORMS:
            raise InvalidArgument(argument, f'{len(values):,} values are too many: use {_MAX_TRANSFORMS:,} or fewer.')
    if shifts is None and rotations is None:
        return [None]
    shifts, rotations = shifts or [(0, 0)], rotations or [0]
    if 1 not in (len(shifts), len(rotations)) and len(shifts) != len(rotations):
        raise InvalidArgument(
            'rotate',
            f'{len(rotations)} rotations do not match {len(shifts)} translations: use as many of both, or a single one '
            'that applies to all.',
        )
    count = max(len(shifts), len(rotations))
    return [make_transform(shifts[i % len(shifts)], rotations[i % len(rotations)]) for i in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# Generators


def _buffer_of(G: Any) -> torch.Tensor | None:
    """Return the inverse transform of a generator, or None if its images cannot be transformed."""
    buffer = getattr(getattr(G.synthesis, 'input', None), 'transform', None)
    return buffer if isinstance(buffer, torch.Tensor) and buffer.shape == (3, 3) else None


def is_supported(G: Any) -> bool:
    """Return whether the images of a generator can be transformed."""
    return _buffer_of(G) is not None


def check_supported(G: Any, values: dict[str, object]) -> None:
    """Check that the images of the generator can be transformed, if that is required.

    Args:
        G: Generator.
        values: Value of each argument that requires it, or None if it is not given.

    Raises:
        InvalidArgument: They cannot; the argument is the first one that is given.
    """
    given = [argument for argument, value in values.items() if value is not None]
    if given and not is_supported(G):
        raise InvalidArgument(
            given[0],
            'this network cannot shift or rotate its images, as only those of StyleGAN3 can: use such a network, or '
            'leave this option out.',
        )


@contextlib.contextmanager
def use_transform(G: Any, transform: np.ndarray | None) -> Iterator[None]:
    """Transform the images of the generator within this context, in place of its own transform.

    Args:
        G: Generator. See `check_supported`.
        transform: The transform. None: keep that of the generator.
    """
    buffer = _buffer_of(G)
    if transform is None:
        yield
        return
    assert buffer is not None
    own = buffer.detach().clone()
    try:
        with torch.no_grad():
            buffer.copy_(torch.from_numpy(np.linalg.inv(transform)))
        yield
    finally:
        with torch.no_grad():
            buffer.copy_(own)


# ---------------------------------------------------------------------------------------------------------------------
# Videos


@dataclass(frozen=True)
class Motion:
    """The movement of all images of a video.

    Args:
        pan: The largest shift: in the middle of a loop, which ends where it began; otherwise at the end.
        spin: Counterclockwise turns during the video; negative: clockwise.
        loop: The video ends where it began.

    Raises:
        InvalidArgument: Argument 'spin': a loop with a fraction of a turn.
    """

    pan: Shift = (0, 0)
    spin: float = 0
    loop: bool = True

    def __post_init__(self) -> None:
        if self.loop and self.spin != round(self.spin):
            raise InvalidArgument(
                'spin', f'{self.spin:g} turns do not close a loop: use a whole number, or a video without a loop.'
            )

    def at(self, frame: int, num_frames: int) -> np.ndarray:
        """Return the transform of a frame, counted from 0."""
        progress = frame / (num_frames if self.loop else max(num_frames - 1, 1))
        distance = (1 - math.cos(2 * math.pi * progress)) / 2 if self.loop else progress
        return make_transform((self.pan[0] * distance, self.pan[1] * distance), 360 * (self.spin * progress % 1))
