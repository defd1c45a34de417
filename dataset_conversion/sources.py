"""Sources: where images come from.

A source is listed once, in the main process: the images' names in a fixed order and, where it has them, their labels.
Reading is left to the worker processes. To each they get a `ticket` (a file name, a database key, or the pixels
themselves), which the source's small `reader` turns into the bytes of an image file or into decoded pixels.
"""

import gzip
import io
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dataset_format.images import BadImage, is_image_name
from dataset_format.labels import LABEL_FILE, Label, match_labels, name_some, parse_label_file

CIFAR10_ARCHIVE = 'cifar-10-python.tar.gz'
CIFAR10_FILES = ('batches.meta', *(f'data_batch_{number}' for number in range(1, 6)))
MNIST_IMAGES = 'train-images-idx3-ubyte.gz'
MNIST_LABELS = 'train-labels-idx1-ubyte.gz'
DIGITS = 'digits'
DIGITS_SIZE = 32  # what the 8x8 digits are scaled to unless another size is asked for


class Reader(Protocol):
    """Picklable, and opens what it needs when it is first used: each worker process has its own."""

    def read(self, ticket: object) -> bytes | np.ndarray:
        """Bytes of an image file, or pixels uint8 [H, W] or [H, W, 3]. Raises BadImage."""


@dataclass(frozen=True)
class Source:
    names: Sequence[str]
    tickets: Sequence
    reader: Reader
    labels: list[Label] | None = None
    class_names: list[str] | None = None
    default_size: int | None = None  # where the images are too small as they are


def open_source(source: str, subfolders_as_labels: bool = False) -> Source:
    """List the images of `--source`. Raises ValueError with what is wrong with it."""
    opener = _find_opener(source)
    if opener in (open_folder, open_zip):
        return opener(Path(source), subfolders_as_labels)
    if subfolders_as_labels:
        raise ValueError(f'--subfolders-as-labels needs a folder or zip archive as --source; {source} has no folders.')
    return opener(Path(source))


def _find_opener(source: str) -> Callable[..., Source]:
    if source == DIGITS:
        return open_digits
    path = Path(source)
    if not path.exists():
        raise ValueError(f'--source={source} does not exist.')
    if path.is_dir():
        is_lmdb = path.name.endswith('_lmdb') or (path / 'data.mdb').is_file()
        return open_lmdb if is_lmdb else open_folder
    if path.name in (CIFAR10_ARCHIVE, MNIST_IMAGES):
        return open_cifar10 if path.name == CIFAR10_ARCHIVE else open_mnist
    if path.suffix.lower() == '.zip':
        return open_zip
    raise ValueError(
        f'--source={source} is none of: a folder, a .zip archive, an LSUN folder NAME_lmdb, '
        f'{CIFAR10_ARCHIVE}, {MNIST_IMAGES}, the word {DIGITS}.'
    )


# ----------------------------------------------------------------------------
# Folders and zip archives of image files.


@dataclass(frozen=True)
class FolderReader:
    root: Path

    def read(self, ticket: str) -> bytes:
        try:
            return (self.root / ticket).read_bytes()
        except OSError as error:
            raise BadImage(f'unreadable ({error.strerror})') from error


def open_folder(path: Path, subfolders_as_labels: bool = False) -> Source:
    def refuse(error: OSError) -> None:
        raise ValueError(f'--source={path}: {error.filename} cannot be listed ({error.strerror}).') from error

    files = [
        (Path(root) / name).relative_to(path).as_posix()
        for root, _folders, names in os.walk(path, followlinks=True, onerror=refuse)
        for name in names
    ]
    label_path = path / LABEL_FILE
    label_content = label_path.read_bytes() if label_path.is_file() else None
    return _source_of_files(str(path), files, FolderReader(path), label_content, subfolders_as_labels)


class ZipReader:
    def __init__(self, path: Path):
        self.path = path
        self._zip: zipfile.ZipFile | None = None

    def read(self, ticket: str) -> bytes:
        try:
            if self._zip is None:
                self._zip = zipfile.ZipFile(self.path)
            return self._zip.read(ticket)
        except Exception as error:  # zipfile raises many kinds at damage, encryption and unknown compression
            raise BadImage(f'unreadable (the archive is damaged here: {error})') from error

    def __getstate__(self) -> dict:
        return {'path': self.path, '_zip': None}


def open_zip(path: Path, subfolders_as_labels: bool = False) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted({name for name in archive.namelist() if not name.endswith('/')})
            label_content = archive.read(LABEL_FILE) if LABEL_FILE in files else None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f'--source={path} is not a complete zip archive ({error}).') from error
    return _source_of_files(str(path), files, ZipReader(path), label_content, subfolders_as_labels)


def _source_of_files(
    where: str, files: list[str], reader: Reader, label_content: bytes | None, subfolders_as_labels: bool
) -> Source:
    names = sorted(filter(is_image_name, files))
    if not names:
        raise ValueError(f'--source={where} has no images: {len(files)} files, none with an extension of one.')
    labels, class_names = None, None
    if subfolders_as_labels:
        labels, class_names = _label_by_folder(names, where)
    elif label_content is not None:
        label_where = f'{LABEL_FILE} of {where}'
        table = parse_label_file(label_content, label_where)
        class_names = table.class_names
        if table.by_name is not None:
            labels = match_labels(names, table.by_name, label_where)
    return Source(names, names, reader, labels, class_names)


def _label_by_folder(names: list[str], where: str) -> tuple[list[Label], list[str]]:
    """The first folder of each name is its class; classes are numbered in the order of their names."""
    outside = [name for name in names if '/' not in name]
    if outside:
        raise ValueError(
            f'--subfolders-as-labels: {len(outside)} images of {where} are in no subfolder '
            f'({name_some(outside)}); move them into the folder of their class.'
        )
    folders = [name.split('/', maxsplit=1)[0] for name in names]
    class_names = sorted(set(folders))
    if len(class_names) < 2:
        raise ValueError(
            f'--subfolders-as-labels: all images of {where} are in the one folder {class_names[0]}; '
            'classes are the folders of the first level, and there must be at least two.'
        )
    index_of = {name: index for index, name in enumerate(class_names)}
    return [index_of[folder] for folder in folders], class_names


# ----------------------------------------------------------------------------
# LSUN: a database of encoded images.


class LmdbReader:
    def __init__(self, path: Path):
        self.path = path
        self._transaction = None

    def read(self, ticket: bytes) -> bytes:
        if self._transaction is None:
            self._transaction = _open_lmdb_environment(self.path).begin()
        content = self._transaction.get(ticket)
        if content is None:
            raise BadImage('unreadable (its key is gone from the database)')
        return content

    def __getstate__(self) -> dict:
        return {'path': self.path, '_transaction': None}


def open_lmdb(path: Path) -> Source:
    environment = _open_lmdb_environment(path)
    try:
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    finally:
        environment.close()
    if not keys:
        raise ValueError(f'--source={path} is an empty database.')
    return Source([key.decode(errors='backslashreplace') for key in keys], keys, LmdbReader(path))


def _open_lmdb_environment(path: Path):
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(
            f'--source={path} is an LSUN database, which needs the package lmdb: pip install lmdb'
        ) from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f'--source={path} cannot be opened as an LSUN database ({error}).') from error


# ----------------------------------------------------------------------------
# Collections that come as arrays.


@dataclass(frozen=True)
class ArrayReader:
    def read(self, ticket: np.ndarray) -> np.ndarray:
        return ticket


def _source_of_arrays(
    pixels: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: list[str] | None,
    default_size: int | None = None,
) -> Source:
    names = [f'image {index}' for index in range(len(pixels))]
    return Source(names, pixels, ArrayReader(), [int(label) for label in labels], class_names, default_size)


def open_cifar10(path: Path) -> Source:
    """The 50,000 training images of CIFAR-10 as published: pickled arrays in a tarball."""
    folder = 'cifar-10-batches-py'
    try:
        with tarfile.open(path, 'r:gz') as archive:
            contents = {
                member.name: archive.extractfile(member).read()
                for member in archive
                if member.isfile() and os.path.basename(member.name) in CIFAR10_FILES
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f'--source={path} is not a complete tar archive ({error}); download it again.') from error

    def load(name: str, *keys: str) -> list:
        where = f'{folder}/{name} of --source={path}'
        if f'{folder}/{name}' not in contents:
            raise ValueError(f'{where} is missing; download the archive again.')
        data = load_plain_pickle(contents[f'{folder}/{name}'], where)
        if not isinstance(data, dict) or not all(key in data for key in keys):
            raise ValueError(f'{where} has no {" or ".join(keys)}; this is not the CIFAR-10 archive for Python.')
        return [data[key] for key in keys]

    pixels, labels = [], []
    for name in CIFAR10_FILES[1:]:
        batch_pixels, batch_labels = load(name, 'data', 'labels')
        _check_cifar_batch(batch_pixels, batch_labels, f'{name} of --source={path}')
        pixels.append(batch_pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # NCHW => NHWC
        labels += batch_labels
    [class_names] = load('batches.meta', 'label_names')
    if not isinstance(class_names, list) or len(class_names) != 10 or not all(isinstance(n, str) for n in class_names):
        raise ValueError(f'batches.meta of --source={path} does not name 10 classes; download the archive again.')
    return _source_of_arrays(np.concatenate(pixels), labels, class_names)


def _check_cifar_batch(pixels: object, labels: object, where: str) -> None:
    is_image_array = (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and len(pixels) > 0
        and pixels.shape[1] == 3 * 32 * 32
    )
    if not is_image_array:
        raise ValueError(f'{where}: "data" is not an array of bytes [N, 3072]; this is not the CIFAR-10 archive.')
    is_label_list = isinstance(labels, list) and all(type(label) is int and 0 <= label < 10 for label in labels)
    if not is_label_list or len(labels) != len(pixels):
        raise ValueError(f'{where}: "labels" is not a list of {len(pixels)} integers from 0 to 9.')


def load_plain_pickle(content: bytes, where: str) -> object:
    """Unpickle built-in values and numpy arrays, also Python 2's; anything else is a ValueError and not executed."""
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding='latin1').load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f'{where} cannot be read: {error}.') from error


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the four names that pickles of numpy arrays refer to."""

    @staticmethod
    def _bytes_of_text(text: str, encoding: str) -> bytes:
        """Stands in for `_codecs.encode`, by which Python 3 writes bytes in Python 2's pickle format."""
        if encoding != 'latin1':
            raise pickle.UnpicklingError(f'text in the encoding {encoding!r}')
        return text.encode('latin1')

    def find_class(self, module: str, name: str) -> object:
        rebuild_array = np.empty(0).__reduce__()[0]  # its module has moved between versions of numpy
        known: dict[Hashable, object] = {
            ('numpy', 'ndarray'): np.ndarray,
            ('numpy', 'dtype'): np.dtype,
            ('numpy.core.multiarray', '_reconstruct'): rebuild_array,
            ('numpy._core.multiarray', '_reconstruct'): rebuild_array,
            ('_codecs', 'encode'): self._bytes_of_text,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f'it refers to {module}.{name}, and only numpy arrays are allowed')
        return known[module, name]


def open_mnist(path: Path) -> Source:
    """The 60,000 training images of MNIST, padded with black from 28x28 to 32x32."""
    label_path = path.with_name(MNIST_LABELS)
    if not label_path.is_file():
        raise ValueError(f'--source={path} has its labels in {MNIST_LABELS}, which must be in the same folder.')
    pixels = read_idx(path)
    labels = read_idx(label_path)
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
        raise ValueError(f'{path} holds an array of shape {list(pixels.shape)}, not images of 28x28.')
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f'{label_path} holds an array of shape {list(labels.shape)} for {len(pixels)} images.')
    padded = np.pad(pixels, [(0, 0), (2, 2), (2, 2)])  # NHW
    return _source_of_arrays(padded, labels, [str(digit) for digit in range(10)] if labels.max() < 10 else None)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped array of bytes in the format of the MNIST pages: 0, 0, type 8, dimensions, sizes, values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is not a complete gzip file ({error}); download it again.') from error
    if len(content) < 4 or content[:3] != b'\0\0\x08':
        raise ValueError(f'{path} is not an IDX file of bytes; download it again.')
    num_dims = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], 'big') for i in range(num_dims)]
    values = np.frombuffer(content, dtype=np.uint8)[4 + 4 * num_dims :]
    if not num_dims or values.size != np.prod(shape) or not values.size:
        raise ValueError(f'{path} says that its shape is {shape}, but has {values.size} values; download it again.')
    return values.reshape(shape)


def open_digits(_path: Path) -> Source:
    """The 1,797 handwritten digits that scikit-learn brings along: 8x8, values 0 to 16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            f'--source={DIGITS} takes its images from the package scikit-learn: pip install scikit-learn'
        ) from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # NHW
    return _source_of_arrays(pixels, digits.target, [str(name) for name in digits.target_names], DIGITS_SIZE)
