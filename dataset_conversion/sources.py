"""The sources that can be converted, and how they are recognized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataset_conversion.array_datasets import (
    CIFAR10_ARCHIVE,
    DIGITS,
    MNIST_IMAGES,
    open_cifar10,
    open_digits,
    open_mnist,
)
from dataset_conversion.emoji_package import EMOJI_PACKAGE, is_emoji_package, open_emoji
from dataset_conversion.image_files import open_folder, open_lmdb, open_zip
from dataset_conversion.source_types import Source
from dataset_format.images import MAX_PIXELS
from dnnlib.errors import InvalidArgument


def open_source(source: str, subfolders_as_labels: bool = False, max_pixels: int = MAX_PIXELS) -> Source:
    """List the images of a source.

    Args:
        source: A path, or 'digits'.
        subfolders_as_labels: Use the folders at the first level as classes.
        max_pixels: Largest number of pixels of an image; it also limits the size of files.

    Raises:
        InvalidArgument: Argument 'subfolders_as_labels': the source does not have one folder per class.
        ValueError: The source does not exist, is not supported, or cannot be read.
    """
    opener = _find_opener(source)
    if opener in (open_folder, open_zip):
        return opener(Path(source), subfolders_as_labels, max_pixels)
    if subfolders_as_labels:
        raise InvalidArgument(
            'subfolders_as_labels', f'the source must be a folder or zip archive; {source} has no folders.'
        )
    if opener is open_lmdb:
        return opener(Path(source), max_pixels)
    return opener() if opener is open_digits else opener(Path(source))


def _find_opener(source: str) -> Callable[..., Source]:
    if source == DIGITS:
        return open_digits
    path = Path(source)
    if not path.exists():
        raise ValueError(f'{source} does not exist.')
    if path.is_dir():
        is_lmdb = path.name.endswith('_lmdb') or (path / 'data.mdb').is_file()
        return open_lmdb if is_lmdb else open_folder
    if path.name in (CIFAR10_ARCHIVE, MNIST_IMAGES):
        return open_cifar10 if path.name == CIFAR10_ARCHIVE else open_mnist
    if is_emoji_package(path):
        return open_emoji
    if path.suffix.lower() == '.zip':
        return open_zip
    raise ValueError(
        f'{source} is not a supported source; use a folder, a .zip archive, an LSUN folder NAME_lmdb, '
        f'{CIFAR10_ARCHIVE}, {MNIST_IMAGES}, {EMOJI_PACKAGE}-VERSION.tgz, or the word {DIGITS}.'
    )
