"""Datasets for training: images and labels from a zip archive or a folder.

This module reads what `dataset_tool.py` writes: images of one size, grayscale or RGB, optionally with an alpha
channel, 8 bits per channel, and their labels in `dataset.json`. Images are decoded on access, in whichever process
accesses them. If all of them fit into a given amount of memory, each is decoded only once, into memory that the
processes of a data loader share (`training.data.image_cache`).
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_format.images import CHANNEL_KINDS, PNG_HEADER_BYTES
from dataset_format.labels import LABEL_FILE, classes_without_images, join_names, match_labels, parse_label_file
from dataset_format.sizes import Resolution, as_resolution, describe_size, sides
from dnnlib import EasyDict
from dnnlib.text import excerpt
from training.data.containers import open_container
from training.data.decoding import ImageError, UnsupportedImage, decode_image, is_png, png_shape
from training.data.image_cache import DEFAULT_CACHE_MIB, SharedImageCache

_CONVERT_HINT = 'convert the images with dataset_tool.py'


class Dataset(torch.utils.data.Dataset):
    """Images with labels: all or a subset, optionally followed by the mirror images of each.

    `dataset[i]` is an image, uint8 [C, H, W], and its label, float32 [label_dim]. Subclasses provide `_read_image` and
    `_read_labels`, both in terms of the whole collection ("raw" indices).

    Args:
        name: Name of the collection in run directories and messages.
        raw_shape: [N, C, H, W] of the whole collection.
        max_size: Maximum number of images, selected by `random_seed`; None selects all.
        use_labels: Provide labels; otherwise every label is a vector of length 0.
        xflip: Append the mirror images, which doubles the length.
        yflip: Then append all of them upside down, which doubles it again.
        random_seed: Seed for the selection of `max_size` images.
        skip: Select the images after the first ones in the order of the seed: those that another dataset with
            `max_size=skip` leaves out.
        cache_mib: Keep decoded images if all selected ones fit into this much memory in MiB; 0 never keeps them.
    """

    def __init__(
        self,
        name: str,
        raw_shape: list[int],
        max_size: int | None = None,
        use_labels: bool = False,
        xflip: bool = False,
        random_seed: int = 0,
        cache_mib: float = DEFAULT_CACHE_MIB,
        skip: int = 0,
        yflip: bool = False,
    ):
        if max_size is not None and max_size < 1:
            raise ValueError(f'max_size is {max_size}, but must be 1 or more.')
        self.name = name
        self._raw_shape = list(raw_shape)
        self._use_labels = use_labels

        num_raw = self._raw_shape[0]
        selected = np.arange(num_raw, dtype=np.int64)
        if skip > 0 or (max_size is not None and max_size < num_raw):
            np.random.RandomState(random_seed).shuffle(selected)
            selected = np.sort(selected[skip:][:max_size])
        if selected.size == 0:
            raise ValueError(f'{name} has only {num_raw} images, so that none remains after the first {skip}.')
        self._cache_row = np.full(num_raw, -1, dtype=np.int64)  # by raw index; -1: not selected
        self._cache_row[selected] = np.arange(selected.size)
        self._flips = [(y, x) for y in range(1 + yflip) for x in range(1 + xflip)]  # of the parts of the same length
        self._raw_idx = np.tile(selected, len(self._flips))

        image_bytes = math.prod(self._raw_shape[1:])
        fits = image_bytes * selected.size <= cache_mib * 2**20
        self._cache = SharedImageCache(selected.size, self._raw_shape[1:]) if fits and cache_mib > 0 else None

    def _read_image(self, raw_idx: int) -> np.ndarray:
        """Decode one image: uint8 [C, H, W]."""
        raise NotImplementedError

    def _read_labels(self) -> np.ndarray | None:
        """Read all labels: int64 [N] (classes), float32 [N, label_dim] (vectors), or None."""
        raise NotImplementedError

    def close(self) -> None:
        """Close open files; the dataset opens them again when it needs them."""

    def __len__(self) -> int:
        return self._raw_idx.size

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._load_image(int(self._raw_idx[idx]))
        y, x = self._flip_of(idx)
        if y or x:
            image = np.ascontiguousarray(image[:, :: -1 if y else 1, :: -1 if x else 1])
        return image, self.get_label(idx)

    def _flip_of(self, idx: int) -> tuple[int, int]:
        """Return whether image `idx` is flipped (vertically, horizontally)."""
        return self._flips[idx % len(self._raw_idx) * len(self._flips) // len(self._raw_idx)]

    def _load_image(self, raw_idx: int) -> np.ndarray:
        row = int(self._cache_row[raw_idx])
        if self._cache is not None and (cached := self._cache.get(row)) is not None:
            return cached
        image = self._read_image(raw_idx)
        if self._cache is not None:
            self._cache.put(row, image)
        return image

    def get_label(self, idx: int) -> np.ndarray:
        """Return the label of image `idx`, float32 [label_dim]; a class index becomes one-hot."""
        label = self._labels[self._raw_idx[idx]]
        if label.dtype == np.int64:
            onehot = np.zeros(self.label_dim, dtype=np.float32)
            onehot[label] = 1
            return onehot
        return label.copy()

    def get_details(self, idx: int) -> EasyDict:
        """Return where image `idx` comes from: `raw_idx`, `xflip`, `yflip`, and `raw_label` as it is stored."""
        raw_idx = int(self._raw_idx[idx])
        y, x = map(bool, self._flip_of(idx))
        return EasyDict(raw_idx=raw_idx, xflip=x, yflip=y, raw_label=self._labels[raw_idx].copy())

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """int64 [N], or float32 [N, label_dim]."""
        labels = self._read_labels() if self._use_labels else None
        return np.zeros([self._raw_shape[0], 0], dtype=np.float32) if labels is None else labels

    @property
    def image_shape(self) -> list[int]:
        """[C, H, W]."""
        return self._raw_shape[1:]

    @property
    def num_channels(self) -> int:
        """C."""
        return self.image_shape[0]

    @property
    def resolution(self) -> Resolution:
        """A number for square images, [height, width] for others."""
        return as_resolution(*self.image_shape[1:])

    @property
    def label_shape(self) -> list[int]:
        """[label_dim]."""
        return [self.label_dim]

    @functools.cached_property
    def label_dim(self) -> int:
        """Number of classes of the whole collection, or length of the label vectors; 0 without labels."""
        return int(self._labels.max()) + 1 if self.has_onehot_labels else self._labels.shape[1]

    @property
    def has_labels(self) -> bool:
        """Whether labels are not empty."""
        return self.label_dim > 0

    @property
    def has_onehot_labels(self) -> bool:
        """Whether labels are classes."""
        return self._labels.dtype == np.int64

    @property
    def class_names(self) -> list[str] | None:
        """Names of the `label_dim` classes, if the dataset has them."""
        return None

    @property
    def classes_without_images(self) -> list[int]:
        """Those of the `label_dim` classes that none of the selected images belongs to."""
        if not self.has_onehot_labels:
            return []
        return classes_without_images(np.unique(self._labels[self._raw_idx]).tolist(), self.label_dim)

    def __getstate__(self) -> dict[str, Any]:
        """Prepare for another process: a child that is being spawned shares the cache, any other process has none."""
        state = self.__dict__.copy()
        if get_spawning_popen() is None or not (self._cache and self._cache.can_be_inherited):
            state['_cache'] = None
        return state


class ImageFolderDataset(Dataset):
    """The images in a zip archive, or in a folder and its subfolders, with the labels of its `dataset.json`.

    Images are ordered by name. The first one determines the shape of all; an image of another shape is an error when
    it is read, or when `check_shapes` is called.

    Args:
        path: Zip archive or folder.
        resolution: Required size: a number for square images, [height, width] for others. None accepts any.
        use_labels: Read labels. It is an error if the dataset has none, or if they do not match the images.
        max_size: See `Dataset`, as for the following arguments.
        xflip: See `Dataset`.
        random_seed: See `Dataset`.
        cache_mib: See `Dataset`.
        skip: See `Dataset`.
        yflip: See `Dataset`.

    Raises:
        ValueError: The dataset cannot be used. One sentence.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        resolution: Resolution | None = None,
        use_labels: bool = False,
        max_size: int | None = None,
        xflip: bool = False,
        random_seed: int = 0,
        cache_mib: float = DEFAULT_CACHE_MIB,
        skip: int = 0,
        yflip: bool = False,
    ):
        self._path = str(path)
        self._files = open_container(Path(path).expanduser())
        self._image_names = self._files.listing.images
        if not self._image_names:
            raise ValueError(f'{self._path} contains no images; {_CONVERT_HINT}.')
        self._class_names: list[str] | None = None

        shape = list(self._decode(self._image_names[0]).shape)
        self._check_resolution(shape, resolution)
        super().__init__(
            name=Path(path).stem,
            raw_shape=[len(self._image_names), *shape],
            max_size=max_size,
            use_labels=use_labels,
            xflip=xflip,
            random_seed=random_seed,
            cache_mib=cache_mib,
            skip=skip,
            yflip=yflip,
        )
        _ = self._labels  # report mistakes in labels now, not after the networks have been built

    def _check_resolution(self, shape: list[int], resolution: Resolution | None) -> None:
        if resolution is not None and sides(resolution) != tuple(shape[1:]):
            expected = describe_size(resolution)
            raise ValueError(
                f'{self._path}: {self._image_names[0]} is {describe_size(shape[1:])}, but resolution '
                f'{expected} is required; convert with dataset_tool.py --resolution={expected}.'
            )

    def close(self) -> None:
        self._files.close()

    def check_shapes(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Check the shape of every selected image by reading only its header.

        Args:
            progress: Called with (number of images checked, total) after each image.

        Raises:
            ValueError: Some images have another shape; the message names them.
        """
        differing = []
        raw_indices = self._raw_idx[: len(self) // len(self._flips)].tolist()
        for done, raw_idx in enumerate(raw_indices, start=1):
            name = self._image_names[raw_idx]
            shape = self._header_shape(name)
            if shape != self.image_shape:
                differing.append(f'{excerpt(name)} ({_describe_shape(shape)})')
            if progress is not None:
                progress(done, len(raw_indices))
        if differing:
            raise ValueError(
                f'{self._path}: {len(differing)} of {len(raw_indices)} images are not '
                f'{_describe_shape(self.image_shape)} like the first: {join_names(differing)}; {_CONVERT_HINT}.'
            )

    def get_details(self, idx: int) -> EasyDict:
        details = super().get_details(idx)
        details.file_name = self._image_names[details.raw_idx]
        return details

    @property
    def class_names(self) -> list[str] | None:
        return self._class_names[: self.label_dim] if self._class_names else None

    def content_sha256(self, progress: Callable[[int, int], object] | None = None) -> str:
        """Return the digest of all images and labels as they are stored, independent of the archive or folder.

        Args:
            progress: Called with (number of files read, total) after each file.
        """
        label_files = self._files.listing.label_files
        names = [*self._image_names, *([LABEL_FILE] if LABEL_FILE in label_files else label_files)]
        digest = hashlib.sha256()
        for done, name in enumerate(names, start=1):
            content = self._files.read(name)
            digest.update(f'{name}\0{len(content)}\0'.encode(errors='surrogateescape'))
            digest.update(content)
            if progress is not None:
                progress(done, len(names))
        return digest.hexdigest()

    def metadata_sha256(self) -> str:
        """Return the digest of the image shape, and of the names and labels of all images, without reading images."""
        digest = hashlib.sha256(str(self.image_shape).encode())
        for raw_idx in self._raw_idx.tolist():
            digest.update(f'{self._image_names[raw_idx]}\0'.encode(errors='surrogateescape'))
        digest.update(self._labels[self._raw_idx].tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> tuple[str, float]:
        """Return text that changes when a file is written, without reading images, and the time of the last change.

        The time (seconds since 1970) matters because two changes within one tick of the file system's clock can have
        the same fingerprint: rely on it only if it was taken some seconds later.
        """
        return self._files.fingerprint()

    def _read_image(self, raw_idx: int) -> np.ndarray:
        name = self._image_names[raw_idx]
        image = self._decode(name)
        if list(image.shape) != self.image_shape:
            raise ImageError(
                f'{self._path}: {excerpt(name)} is {_describe_shape(list(image.shape))}, but the first image is '
                f'{_describe_shape(self.image_shape)}; all must have the same shape: {_CONVERT_HINT}.'
            )
        return image

    def _decode(self, name: str) -> np.ndarray:
        content = self._files.read(name)
        try:
            return decode_image(content)
        except UnsupportedImage as error:
            raise ImageError(f'{self._path}: {excerpt(name)} is {error}; {_CONVERT_HINT}.') from error
        except Exception as error:  # decoders raise anything for damaged data
            raise ImageError(
                f'{self._path}: {excerpt(name)} cannot be read as an image ({excerpt(error)}); replace or remove it, '
                'or convert with dataset_tool.py --skip-bad.'
            ) from error

    def _header_shape(self, name: str) -> list[int]:
        header = self._files.read(name, limit=PNG_HEADER_BYTES)
        if not is_png(header):
            return list(self._decode(name).shape)
        try:
            return png_shape(header)
        except UnsupportedImage as error:
            raise ValueError(f'{self._path}: {excerpt(name)} is {error}; {_CONVERT_HINT}.') from error

    def _read_labels(self) -> np.ndarray:
        way_out = 'convert it with labels (see dataset_tool.py --help), or train without --cond'
        label_file = self._files.listing.label_file()
        if label_file is None:
            raise ValueError(f'{self._path} has no labels: it contains no {LABEL_FILE}; {way_out}.')
        source = f'{label_file} of {self._path}'
        table = parse_label_file(self._files.read(label_file), source)
        if not table.by_name:
            raise ValueError(f'{self._path} has no labels: its {label_file} lists none; {way_out}.')
        labels = match_labels(self._files.listing.names_for_labels(label_file), table.by_name, source)
        self._class_names = table.class_names
        return np.array(labels, dtype=np.float32 if isinstance(labels[0], list) else np.int64)


def _describe_shape(shape: list[int]) -> str:
    return f'{describe_size(shape[1:])} {CHANNEL_KINDS[shape[0]]}'
