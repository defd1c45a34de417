"""Results for single images, and which of them become a dataset: those of the shape that most images have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_format.images import CHANNEL_KINDS

Shape = tuple[int, ...]  # [H, W] or [H, W, C]

_MAX_REMEMBERED = 100


@dataclass(frozen=True)
class Picture:
    """A converted image.

    Args:
        png: Bytes of the PNG.
        shape: [H, W] or [H, W, C].
    """

    png: bytes
    shape: Shape


@dataclass(frozen=True)
class Rejection:
    """Why an image was not converted.

    Args:
        reason: Completes 'NAME: ...'.
        is_bad: False if the image is intact, but too small for the transform.
    """

    reason: str
    is_bad: bool


def describe_shape(shape: Sequence[int]) -> str:
    """Format the shape [H, W] or [H, W, C] of an image, such as '96x64 RGB'."""
    return f'{shape[1]}x{shape[0]} {CHANNEL_KINDS[shape[2] if len(shape) == 3 else 1]}'


class Tally:
    """Counts results by their shape. Pictures of other shapes than most are bad, which is certain only at the end.

    Args:
        names: Names of all images.
        expected: Shape that most pictures are expected to have, or None for that of the first one.

    Attributes:
        expected: Likewise.
        skipped: (name, reason) of images that are too small for the transform.
    """

    def __init__(self, names: Sequence[str], expected: Shape | None):
        self.expected = expected
        self.skipped: list[tuple[str, str]] = []
        self._names = names
        self._num_of_shape: Counter[Shape] = Counter()
        self._num_pictures = self._num_usual = 0
        self._indices_of_shape: dict[Shape, list[int]] = {}
        self._rejected: list[tuple[int, str]] = []

    def add(self, index: int, result: Picture | Rejection) -> bool:
        """Add a result, and return whether it is a picture of the expected shape."""
        if isinstance(result, Picture):
            self.expected = self.expected or result.shape
            self._num_of_shape[result.shape] += 1
            self._num_pictures += 1
            self._num_usual = max(self._num_usual, self._num_of_shape[result.shape])
            indices = self._indices_of_shape.setdefault(result.shape, [])
            if result.shape != self.expected or len(indices) < _MAX_REMEMBERED:
                indices.append(index)
        elif result.is_bad:
            self._rejected.append((index, result.reason))
        else:
            self.skipped.append((self._names[index], result.reason))
        return isinstance(result, Picture) and result.shape == self.expected

    @property
    def usual_shape(self) -> Shape | None:
        """The shape of most pictures; of several, the one that came first."""
        most_common = self._num_of_shape.most_common(1)
        return most_common[0][0] if most_common else None

    @property
    def num_bad(self) -> int:
        """Number of images that cannot be used."""
        return len(self._rejected) + self._num_pictures - self._num_usual

    @property
    def bad(self) -> list[tuple[str, str]]:
        """(name, reason) of the images that cannot be used; while `usual_shape` is not as expected, only the first."""
        usual = self.usual_shape
        others = [
            (index, f'{describe_shape(shape)}, but most images are {describe_shape(usual or shape)}')
            for shape, indices in self._indices_of_shape.items()
            if shape != usual
            for index in indices
        ]
        return [(self._names[index], reason) for index, reason in sorted([*self._rejected, *others])]

    @property
    def mixes_channels(self) -> bool:
        """Whether pictures differ in their channels."""
        return len({shape[2:] for shape in self._num_of_shape}) > 1
