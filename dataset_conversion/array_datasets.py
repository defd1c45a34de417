"""Sources of decoded images: CIFAR-10, MNIST, and the digits of scikit-learn."""

from __future__ import annotations

import gzip
import math
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.source_types import Source
from dataset_conversion.tar_files import read_members
from dnnlib.files import open_regular
from dnnlib.text import excerpt
from plain_pickle import reading
from plain_pickle.machine import RefusedGlobal

CIFAR10_ARCHIVE = 'cifar-10-python.tar.gz'
MNIST_IMAGES = 'train-images-idx3-ubyte.gz'
MNIST_LABELS = 'train-labels-idx1-ubyte.gz'
DIGITS = 'digits'

_CIFAR10_FOLDER = 'cifar-10-batches-py'
_CIFAR10_BATCHES = tuple(f'data_batch_{number}' for number in range(1, 6))
_CIFAR10_META = 'batches.meta'
_MAX_CIFAR10_BYTES = 2**28  # the archive as published expands to 186 million bytes
_MAX_IDX_VALUES = 550_000_000  # the largest collection in this format, EMNIST, has 697,932 images of 28x28
_DIGITS_SIZE = 32  # side in pixels to which the 8x8 digits are scaled by default


@dataclass(frozen=True)
class ArrayReader:
    """Returns pixels, which are their own tickets."""

    def read(self, ticket: np.ndarray) -> np.ndarray:
        return ticket

    def sizes(self, tickets: Sequence[np.ndarray]) -> None:
        """Return None: all images have the same size."""


def _source_of_arrays(
    pixels: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: list[str] | None,
    default_size: int | None = None,
) -> Source:
    names = [f'image {index}' for index in range(len(pixels))]
    tickets: Any = pixels  # an array is a sequence of images
    return Source(names, tickets, ArrayReader(), [int(label) for label in labels], class_names, default_size)


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR-10


def open_cifar10(path: Path) -> Source:
    """Read the 50,000 training images of CIFAR-10 as published: pickled arrays in a tar archive."""
    files = _read_cifar_archive(path)
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for name in _CIFAR10_BATCHES:
        batch_pixels, batch_labels = _load_cifar_file(files, path, name, 'data', 'labels')
        _check_cifar_batch(batch_pixels, batch_labels, f'{name} of {path}')
        pixels.append(batch_pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # NCHW => NHWC
        labels += batch_labels
    [class_names] = _load_cifar_file(files, path, _CIFAR10_META, 'label_names')
    if not isinstance(class_names, list) or len(class_names) != 10 or not all(isinstance(n, str) for n in class_names):
        raise ValueError(f'{_CIFAR10_META} of {path} does not name 10 classes; download the archive again.')
    return _source_of_arrays(np.concatenate(pixels), labels, class_names)


def _read_cifar_archive(path: Path) -> dict[str, bytes]:
    """Return the content of the required files of the archive by name."""
    required = [f'{_CIFAR10_FOLDER}/{name}' for name in (*_CIFAR10_BATCHES, _CIFAR10_META)]
    return dict(read_members(path, required.__contains__, 'the CIFAR-10 archive', _MAX_CIFAR10_BYTES))


def _load_cifar_file(files: dict[str, bytes], path: Path, name: str, *keys: str) -> list[Any]:
    """Unpickle a file of the archive and return the values of its keys."""
    member = f'{_CIFAR10_FOLDER}/{name}'
    if member not in files:
        raise ValueError(f'{member} of {path} is missing; download the archive again.')
    data = load_plain_pickle(files[member], f'{member} of {path}')
    if not isinstance(data, dict) or not all(key in data for key in keys):
        raise ValueError(
            f'{member} of {path} does not contain {" and ".join(keys)}; this is not the CIFAR-10 archive for Python.'
        )
    return [data[key] for key in keys]


def _check_cifar_batch(pixels: Any, labels: Any, file: str) -> None:
    is_image_array = (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and len(pixels) > 0
        and pixels.shape[1] == 3 * 32 * 32
    )
    if not is_image_array:
        raise ValueError(f'{file}: "data" is not a uint8 array [N, 3072]; this is not the CIFAR-10 archive.')
    is_label_list = isinstance(labels, list) and all(type(label) is int and 0 <= label < 10 for label in labels)
    if not is_label_list or len(labels) != len(pixels):
        raise ValueError(f'{file}: "labels" is not a list of {len(pixels)} integers from 0 to 9.')


def load_plain_pickle(content: bytes, file: str) -> object:
    """Read built-in values and numpy arrays, including those of Python 2, without executing anything in the pickle.

    Args:
        content: Bytes of the pickle.
        file: How error messages refer to the pickle.

    Raises:
        ValueError: The pickle is damaged or refers to anything else.
    """
    try:
        return reading.loads(content)
    except RefusedGlobal as error:
        raise ValueError(f'{file} cannot be read: it names {error.name}, but only numpy arrays are allowed.') from error
    except pickle.UnpicklingError as error:
        raise ValueError(f'{file} cannot be read: {excerpt(error)}.') from error


# ---------------------------------------------------------------------------------------------------------------------
# MNIST


def open_mnist(path: Path) -> Source:
    """Read the 60,000 training images of MNIST, padded with black from 28x28 to 32x32."""
    label_path = path.with_name(MNIST_LABELS)
    if not label_path.is_file():
        raise ValueError(f'the labels of {path} must be in the same folder, in {MNIST_LABELS}.')
    pixels = read_idx(path)
    labels = read_idx(label_path)
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
        raise ValueError(f'{path} contains an array of shape {list(pixels.shape)}, not images of 28x28.')
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f'{label_path} contains an array of shape {list(labels.shape)} for {len(pixels)} images.')
    padded = np.pad(pixels, [(0, 0), (2, 2), (2, 2)])  # NHW
    return _source_of_arrays(padded, labels, [str(digit) for digit in range(10)] if labels.max() < 10 else None)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped uint8 array in MNIST's IDX format: 0, 0, type 8, number of dimensions, sizes, values."""
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) as stream:
            start = stream.read(4)
            if len(start) < 4 or start[:3] != b'\0\0\x08':
                raise ValueError(f'{path} is not an IDX file of bytes; download it again.')
            shape = [int.from_bytes(stream.read(4), 'big') for _ in range(start[3])]
            num_values = math.prod(shape)
            if num_values > _MAX_IDX_VALUES:
                raise ValueError(
                    f'{path} declares the shape {shape}, {num_values:,} values, but at most {_MAX_IDX_VALUES:,} are '
                    'read; download it again.'
                )
            content = stream.read(num_values + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is not a complete gzip file ({excerpt(error)}); download it again.') from error
    if not shape or len(content) != num_values or not num_values:
        found = 'more' if len(content) > num_values else str(len(content))
        raise ValueError(f'{path} declares the shape {shape} but contains {found} values; download it again.')
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


# ---------------------------------------------------------------------------------------------------------------------
# Digits


def open_digits() -> Source:
    """Read the 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, values from 0 to 16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(f'{DIGITS} requires the package scikit-learn: pip install scikit-learn') from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # NHW
    return _source_of_arrays(pixels, digits.target, [str(name) for name in digits.target_names], _DIGITS_SIZE)
