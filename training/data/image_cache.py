"""Decoded images in memory that all processes of a data loader share."""

from __future__ import annotations

import math
import mmap
import os
from multiprocessing import reduction
from typing import Any

import numpy as np

DEFAULT_CACHE_MIB = 1024


class SharedImageCache:
    """Memory for decoded images that all processes of a data loader fill and read together.

    The memory belongs to the operating system's page pool, not to one process: forked processes see the same pages,
    and spawned ones receive the file on systems with anonymous files (Linux). Pages cost nothing until they are first
    written. The flag of an image is set after its pixels; two processes that decode the same image write the same.

    Args:
        num_images: Number of images.
        image_shape: [C, H, W] of each image, uint8.
    """

    def __init__(self, num_images: int, image_shape: list[int]):
        self._num_images = num_images
        self._image_shape = list(image_shape)
        self._fd = os.memfd_create('image-cache') if hasattr(os, 'memfd_create') else None
        if self._fd is not None:
            os.ftruncate(self._fd, self._num_bytes)
        self._map_memory()

    @property
    def _num_bytes(self) -> int:
        return self._num_images * (1 + math.prod(self._image_shape))

    def _map_memory(self) -> None:
        memory = mmap.mmap(-1 if self._fd is None else self._fd, self._num_bytes)
        self._is_filled = np.frombuffer(memory, dtype=np.bool_, count=self._num_images)
        pixels = np.frombuffer(memory, dtype=np.uint8, offset=self._num_images)
        self._images = pixels.reshape([self._num_images, *self._image_shape])  # NCHW

    @property
    def can_be_inherited(self) -> bool:
        """Whether a spawned child process can share this memory."""
        return self._fd is not None

    def get(self, row: int) -> np.ndarray | None:
        """Return a copy of the image in a row, or None if it has not been decoded yet."""
        return self._images[row].copy() if self._is_filled[row] else None

    def put(self, row: int, image: np.ndarray) -> None:
        """Store the image of a row."""
        self._images[row] = image
        self._is_filled[row] = True

    def __getstate__(self) -> dict[str, Any]:
        assert self._fd is not None  # checked by `can_be_inherited`
        return dict(num_images=self._num_images, image_shape=self._image_shape, fd=reduction.DupFd(self._fd))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._num_images, self._image_shape = state['num_images'], state['image_shape']
        self._fd = state['fd'].detach()
        self._map_memory()

    def __del__(self) -> None:
        fd = getattr(self, '_fd', None)
        if fd is not None:
            self._fd = None
            os.close(fd)
