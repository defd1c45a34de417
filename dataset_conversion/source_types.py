"""What every source of images provides.

A source is listed once, in the main process: the names of its images in a fixed order, and their labels if it has any.
Worker processes read the images. They get a `ticket` for each (a file name, a database key, or the pixels themselves),
which the source's `reader` turns into the bytes of an image file or into decoded pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dataset_format.labels import Label


class Reader(Protocol):
    """Reads the images of a source.

    Each worker process gets a copy of its own, so readers can be pickled and open files only when first used.
    """

    def read(self, ticket: Any) -> bytes | np.ndarray:
        """Return the bytes of an image file, or its pixels.

        Returns:
            Bytes, or uint8 [H, W] or [H, W, 3].

        Raises:
            BadImage: The image cannot be read.
        """

    def sizes(self, tickets: Sequence[Any]) -> list[int] | None:
        """Return the size of each image in bytes, or None if sizes are unknown until the images are read."""


@dataclass(frozen=True)
class Source:
    """The images of a collection.

    Args:
        names: Names of the images, for labels and messages.
        tickets: What `reader` needs to read each of the images.
        reader: Reads an image from its ticket.
        labels: Label of each image, or None.
        class_names: Names of the classes, or None.
        default_size: Side in pixels to which images are scaled unless a size is requested, or None to keep theirs.
    """

    names: Sequence[str]
    tickets: Sequence[Any]
    reader: Reader
    labels: list[Label] | None = None
    class_names: list[str] | None = None
    default_size: int | None = None
