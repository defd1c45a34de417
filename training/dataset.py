"""Datasets for training: images and labels from a zip archive or a folder, and the endless order they are seen in.

`dataset_tool.py` writes what is read here: images of one size, grayscale or RGB, perhaps with an alpha channel, 8 bits,
and their labels in `dataset.json`. Images are decoded when they are asked for, in whichever process asks. Where all of
them fit a stated budget of memory they are decoded once only, into memory that the processes of a data loader share.
"""

import functools
import hashlib
import io
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from dataset_format.images import (
    CHANNEL_KINDS,
    PNG_CHANNELS,
    PNG_COLOR_KINDS,
    PNG_HEADER_BYTES,
    PNG_SIGNATURE,
    is_image_name,
)
from dataset_format.labels import LABEL_FILE, match_labels, name_some, parse_label_file
from dataset_format.sizes import Resolution, as_resolution, describe_size, sides
from dnnlib import EasyDict

try:
    import pyspng
except ImportError:  # optional: Pillow decodes the same pixels, more slowly
    pyspng = None

DEFAULT_CACHE_MIB = 1024
CONVERT_HINT = 'convert the images with dataset_tool.py'


class Dataset(torch.utils.data.Dataset):
    """Images with labels, of which a subset is shown, and perhaps each image's mirror image too.

    `dataset[i]` is an image, uint8 [C, H, W], and its label, float32 [label_dim]. Subclasses provide `_read_image`
    and `_read_labels`, both in terms of the whole collection ("raw" indices).

    Args:
        name:         what the collection is called in run directories and messages.
        raw_shape:    [N, C, H, W] of the whole collection.
        max_size:     show at most this many images, drawn by `random_seed`. None = all.
        use_labels:   give labels. False = all labels are vectors of length 0.
        xflip:        append the mirror images: twice the length.
        random_seed:  seed of the draw of `max_size` images.
        cache_mib:    keep decoded images where all shown ones fit into this much memory (MiB). 0 = never.
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
    ):
        if max_size is not None and max_size < 1:
            raise ValueError(f'max_size is {max_size}; a subset has at least 1 image.')
        self.name = name
        self._raw_shape = list(raw_shape)
        self._use_labels = use_labels

        num_raw = self._raw_shape[0]
        shown = np.arange(num_raw, dtype=np.int64)
        if max_size is not None and max_size < num_raw:
            np.random.RandomState(random_seed).shuffle(shown)
            shown = np.sort(shown[:max_size])
        self._cache_row = np.full(num_raw, -1, dtype=np.int64)  # by raw index; -1 = not shown
        self._cache_row[shown] = np.arange(shown.size)
        self._raw_idx = np.concatenate([shown, shown]) if xflip else shown
        self._flipped = np.arange(self._raw_idx.size) >= shown.size

        image_bytes = int(np.prod(self._raw_shape[1:]))
        fits = image_bytes * shown.size <= cache_mib * 2**20
        self._cache = SharedImageCache(shown.size, self._raw_shape[1:]) if fits and cache_mib > 0 else None

    def _read_image(self, raw_idx: int) -> np.ndarray:
        """Decode one image: uint8 [C, H, W]."""
        raise NotImplementedError

    def _read_labels(self) -> np.ndarray | None:
        """All labels: int64 [N] (classes), float32 [N, label_dim] (vectors), or None."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of open files. The dataset opens them again when it needs them."""

    def __len__(self) -> int:
        return self._raw_idx.size

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._image(int(self._raw_idx[idx]))
        if self._flipped[idx]:
            image = np.ascontiguousarray(image[:, :, ::-1])
        return image, self.get_label(idx)

    def _image(self, raw_idx: int) -> np.ndarray:
        row = int(self._cache_row[raw_idx])
        if self._cache is not None and (image := self._cache.get(row)) is not None:
            return image
        image = self._read_image(raw_idx)
        if self._cache is not None:
            self._cache.put(row, image)
        return image

    def get_label(self, idx: int) -> np.ndarray:
        """Label of image `idx`: float32 [label_dim]; a class index becomes one-hot."""
        label = self._labels[self._raw_idx[idx]]
        if label.dtype == np.int64:
            onehot = np.zeros(self.label_dim, dtype=np.float32)
            onehot[label] = 1
            return onehot
        return label.copy()

    def get_details(self, idx: int) -> EasyDict:
        """Where image `idx` comes from: its raw index, whether it is mirrored, its label as it was stored."""
        raw_idx = int(self._raw_idx[idx])
        return EasyDict(raw_idx=raw_idx, xflip=bool(self._flipped[idx]), raw_label=self._labels[raw_idx].copy())

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """int64 [N], or float32 [N, label_dim]"""
        array = self._read_labels() if self._use_labels else None
        return np.zeros([self._raw_shape[0], 0], dtype=np.float32) if array is None else array

    @property
    def image_shape(self) -> list[int]:
        """[C, H, W]"""
        return self._raw_shape[1:]

    @property
    def num_channels(self) -> int:
        return self.image_shape[0]

    @property
    def resolution(self) -> Resolution:
        """A number for square images, [height, width] for others."""
        return as_resolution(*self.image_shape[1:])

    @property
    def label_shape(self) -> list[int]:
        return [self.label_dim]

    @functools.cached_property
    def label_dim(self) -> int:
        """Number of classes of the whole collection, or length of the vectors; 0 without labels."""
        return int(self._labels.max()) + 1 if self.has_onehot_labels else self._labels.shape[1]

    @property
    def has_labels(self) -> bool:
        return self.label_dim > 0

    @property
    def has_onehot_labels(self) -> bool:
        return self._labels.dtype == np.int64

    @property
    def class_names(self) -> list[str] | None:
        """Names of the `label_dim` classes, where the dataset knows them."""
        return None

    def __getstate__(self) -> dict:
        """Ready for another process: it shares the cache if it is a child being started, else it has none."""
        state = self.__dict__.copy()
        if get_spawning_popen() is None or not (self._cache and self._cache.can_be_inherited):
            state['_cache'] = None
        return state


class ImageFolderDataset(Dataset):
    """The images in a zip archive or in a folder and its subfolders, with the labels of its `dataset.json`.

    Images are ordered by name. The first one says what shape all must have; an image of another shape is an error
    when it is read, or when `check_shapes` is called.

    Args:
        path:         zip archive or folder.
        resolution:   the size to insist on: a number for square images, [height, width] for others. None = whatever
                      the images have.
        use_labels:   read labels; without them in the dataset, or where they do not fit the images, ValueError.
        max_size, xflip, random_seed, cache_mib: see `Dataset`.
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
    ):
        self._path = str(path)
        self._files = _open_container(Path(path).expanduser())
        self._image_names = sorted(name for name in self._files.names if is_image_name(name))
        if not self._image_names:
            raise ValueError(f'{self._path} has no images; {CONVERT_HINT}.')
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
        )
        _ = self._labels  # mistakes in labels show now, not after the networks are built

    def _check_resolution(self, shape: list[int], resolution: Resolution | None) -> None:
        if resolution is not None and sides(resolution) != tuple(shape[1:]):
            wanted = describe_size(resolution)
            raise ValueError(
                f'{self._path}: {self._image_names[0]} is {describe_size(shape[1:])}, but resolution '
                f'{wanted} is asked for; convert with dataset_tool.py --resolution={wanted}.'
            )

    def close(self) -> None:
        self._files.close()

    def check_shapes(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Look at the header of every image that is shown; ValueError names those of another shape.

        `progress(done, total)` is called after each image. Reads some bytes of each file, decodes none.
        """
        wrong = []
        raw_indices = self._raw_idx[~self._flipped].tolist()
        for done, raw_idx in enumerate(raw_indices, start=1):
            name = self._image_names[raw_idx]
            shape = self._header_shape(name)
            if shape != self.image_shape:
                wrong.append(f'{name} ({_describe_shape(shape)})')
            if progress is not None:
                progress(done, len(raw_indices))
        if wrong:
            raise ValueError(
                f'{self._path}: {len(wrong)} of {len(raw_indices)} images are not '
                f'{_describe_shape(self.image_shape)} like the first: {name_some(wrong)}; '
                f'{CONVERT_HINT}.'
            )

    def get_details(self, idx: int) -> EasyDict:
        details = super().get_details(idx)
        details.file_name = self._image_names[details.raw_idx]
        return details

    @property
    def class_names(self) -> list[str] | None:
        return self._class_names[: self.label_dim] if self._class_names else None

    def content_sha256(self, progress: Callable[[int, int], None] | None = None) -> str:
        """Digest of all images and labels, as they are stored, in whatever file or folder that is.

        Reads every file of the dataset. `progress(done, total)` is called after each.
        """
        names = [*self._image_names, *({LABEL_FILE} & self._files.names)]
        digest = hashlib.sha256()
        for done, name in enumerate(names, start=1):
            content = self._files.read(name)
            digest.update(f'{name}\0{len(content)}\0'.encode())
            digest.update(content)
            if progress is not None:
                progress(done, len(names))
        return digest.hexdigest()

    def outline_sha256(self) -> str:
        """Digest of what is known without reading images: the shape, the names of those shown, and their labels."""
        digest = hashlib.sha256(str(self.image_shape).encode())
        for raw_idx in self._raw_idx.tolist():
            digest.update(f'{self._image_names[raw_idx]}\0'.encode())
        digest.update(self._labels[self._raw_idx].tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> tuple[str, float]:
        """Text that becomes another one when a file is written, found without reading images, and when that last was.

        The time (seconds since 1970) is there because two changes within one tick of the file system's clock are one
        to the fingerprint: trust it only where it was taken some seconds later.
        """
        return self._files.fingerprint()

    def _read_image(self, raw_idx: int) -> np.ndarray:
        name = self._image_names[raw_idx]
        image = self._decode(name)
        if list(image.shape) != self.image_shape:
            raise ImageError(
                f'{self._path}: {name} is {_describe_shape(list(image.shape))}, the first image is '
                f'{_describe_shape(self.image_shape)}; all must be alike: {CONVERT_HINT}.'
            )
        return image

    def _decode(self, name: str) -> np.ndarray:
        content = self._files.read(name)
        try:
            return decode_image(content)
        except UnsupportedImage as error:
            raise ImageError(f'{self._path}: {name} is {error}; {CONVERT_HINT}.') from error
        except Exception as error:  # decoders raise anything at damaged data
            raise ImageError(
                f'{self._path}: {name} cannot be read as an image ({error}); replace or remove it, '
                'or convert with dataset_tool.py --skip-bad.'
            ) from error

    def _header_shape(self, name: str) -> list[int]:
        header = self._files.read(name, limit=PNG_HEADER_BYTES)
        if not header.startswith(PNG_SIGNATURE) or len(header) < PNG_HEADER_BYTES:
            return list(self._decode(name).shape)
        try:
            return _png_shape(header)
        except UnsupportedImage as error:
            raise ValueError(f'{self._path}: {name} is {error}; {CONVERT_HINT}.') from error

    def _read_labels(self) -> np.ndarray:
        where = f'{LABEL_FILE} of {self._path}'
        way_out = 'convert it with labels (dataset_tool.py --help says how), or train without --cond'
        if LABEL_FILE not in self._files.names:
            raise ValueError(f'{self._path} has no labels: there is no {LABEL_FILE} in it; {way_out}.')
        table = parse_label_file(self._files.read(LABEL_FILE), where)
        if not table.by_name:
            raise ValueError(f'{self._path} has no labels: its {LABEL_FILE} lists none; {way_out}.')
        labels = match_labels(self._image_names, table.by_name, where)
        self._class_names = table.class_names
        return np.array(labels, dtype=np.float32 if isinstance(labels[0], list) else np.int64)


class ImageError(ValueError):
    """Images that cannot be read; the text is a sentence for the user.

    What is raised in a data loader's worker arrives as `type(error)(report)`, where the report ends with the traceback
    from over there, and this with the sentence: that alone is kept.
    """

    def __init__(self, text: str):
        super().__init__(text.rpartition(f'{type(self).__module__}.{type(self).__qualname__}: ')[2].strip())


class UnsupportedImage(ValueError):
    """An intact image of a kind that training does not read; the text completes 'NAME is ...'."""


def decode_image(content: bytes) -> np.ndarray:
    """Pixels of an image file's bytes: uint8 [C, H, W], C from 1 to 4: grayscale or RGB, and an even number with alpha.

    Raises UnsupportedImage, or the decoder's error.
    """
    if content.startswith(PNG_SIGNATURE) and len(content) >= PNG_HEADER_BYTES:
        channels = _png_shape(content)[0]
        if pyspng is not None and channels != 2:  # it knows no grayscale with alpha
            return _channels_first(pyspng.load(content))
    with PIL.Image.open(io.BytesIO(content)) as image:
        if image.mode not in ('L', 'LA', 'RGB', 'RGBA'):
            raise UnsupportedImage(f'of mode {image.mode}, not 8-bit grayscale or RGB')
        return _channels_first(np.array(image))


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:  # HW
        return pixels[np.newaxis]  # CHW
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # HWC => CHW


def _png_shape(header: bytes) -> list[int]:
    """[C, H, W] by the header of a PNG; UnsupportedImage unless it is 8-bit grayscale or RGB, perhaps with alpha."""
    width, height = int.from_bytes(header[16:20], 'big'), int.from_bytes(header[20:24], 'big')
    bit_depth, color_type = header[24], header[25]
    kind = PNG_COLOR_KINDS.get(color_type, f'of color type {color_type}')
    channels = PNG_CHANNELS.get(color_type)
    if channels is None or bit_depth != 8:
        raise UnsupportedImage(f'{bit_depth}-bit {kind}, not 8-bit grayscale or RGB')
    return [channels, height, width]


def _describe_shape(shape: list[int]) -> str:
    return f'{describe_size(shape[1:])} {CHANNEL_KINDS[shape[0]]}'


# ----------------------------------------------------------------------------
# Zip archives and folders, alike to the reader.


def _open_container(path: Path) -> '_FolderFiles | _ZipFiles':
    if path.is_dir():
        return _FolderFiles(path)
    if not path.exists():
        raise ValueError(f'{path} does not exist; give a zip archive or a folder that dataset_tool.py made.')
    if path.suffix.lower() != '.zip':
        raise ValueError(f'{path} is neither a folder nor a .zip archive; {CONVERT_HINT}.')
    return _ZipFiles(path)


class _FolderFiles:
    def __init__(self, path: Path):
        self._path = path
        self.names = {
            (Path(root) / name).relative_to(path).as_posix()
            for root, _folders, names in os.walk(path, followlinks=True)
            for name in names
        }

    def read(self, name: str, limit: int = -1) -> bytes:
        try:
            with open(self._path / name, 'rb') as file:
                return file.read(limit)
        except OSError as error:
            raise ImageError(f'{self._path / name} cannot be read: {error.strerror}.') from error

    def fingerprint(self) -> tuple[str, float]:
        states = [(name, os.stat(self._path / name)) for name in sorted(self.names)]
        return _digest_of_states(states)

    def close(self) -> None:
        pass


def _digest_of_states(states: list[tuple[str, os.stat_result]]) -> tuple[str, float]:
    """Digest of names and what the system knows of their files; time of the last change. ctime cannot be set back."""
    digest = hashlib.sha256()
    for name, state in states:
        digest.update(f'{name}\0{state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n'.encode())
    return digest.hexdigest(), max(max(state.st_mtime, state.st_ctime) for _, state in states)


class _ZipFiles:
    """A zip archive with one handle per process: a handle shared with a fork would share its file position."""

    def __init__(self, path: Path):
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None
        self.names = {name for name in self._handle().namelist() if not name.endswith('/')}

    def _handle(self) -> zipfile.ZipFile:
        if self._zip is None or self._zip_pid != os.getpid():
            try:
                self._zip, self._zip_pid = zipfile.ZipFile(self._path), os.getpid()
            except zipfile.BadZipFile as error:
                raise ImageError(
                    f'{self._path} is not a complete zip archive ({error}); make it again with '
                    'dataset_tool.py, or copy it again.'
                ) from error
            except OSError as error:
                raise ImageError(f'{self._path} cannot be opened: {error.strerror}.') from error
        return self._zip

    def read(self, name: str, limit: int = -1) -> bytes:
        try:
            with self._handle().open(name) as file:
                return file.read(limit)
        except Exception as error:  # zipfile raises many kinds at damaged archives (BadZipFile, zlib.error, EOFError)
            raise ImageError(
                f'{self._path} is damaged at {name} ({error}); make it again with dataset_tool.py, or copy it again.'
            ) from error

    def fingerprint(self) -> tuple[str, float]:
        """Of the file that is open, which may be another than the one that is at its path now; with its checksums."""
        archive = self._handle()
        state = os.fstat(archive.fp.fileno())
        of_file, last_change = _digest_of_states([(str(self._path.resolve()), state)])
        members = [(info.filename, info.file_size, info.CRC) for info in archive.infolist()]
        return hashlib.sha256(f'{of_file} {members}'.encode()).hexdigest(), last_change

    def close(self) -> None:
        if self._zip is not None and self._zip_pid == os.getpid():
            self._zip.close()
        self._zip = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_zip': None, '_zip_pid': None}


# ----------------------------------------------------------------------------
# Decoded images, kept.


class SharedImageCache:
    """Room for decoded images that all processes of a data loader fill and read together.

    The memory belongs to the operating system's page pool, not to one process: forked processes see the same pages,
    and where the system has anonymous files (Linux) spawned ones are handed the file. Pages cost nothing before they
    are first written. An image's flag is set after its pixels; two processes that decode one image write the same.
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
        return self._num_images * (1 + int(np.prod(self._image_shape)))

    def _map_memory(self) -> None:
        memory = mmap.mmap(-1 if self._fd is None else self._fd, self._num_bytes)
        self._filled = np.frombuffer(memory, dtype=np.bool_, count=self._num_images)
        self._images = np.frombuffer(memory, dtype=np.uint8, offset=self._num_images)
        self._images = self._images.reshape([self._num_images, *self._image_shape])  # NCHW

    @property
    def can_be_inherited(self) -> bool:
        """Whether a spawned child process can share this memory."""
        return self._fd is not None

    def get(self, row: int) -> np.ndarray | None:
        return self._images[row].copy() if self._filled[row] else None

    def put(self, row: int, image: np.ndarray) -> None:
        self._images[row] = image
        self._filled[row] = True

    def __getstate__(self) -> dict:
        return dict(num_images=self._num_images, image_shape=self._image_shape, fd=reduction.DupFd(self._fd))

    def __setstate__(self, state: dict) -> None:
        self._num_images, self._image_shape = state['num_images'], state['image_shape']
        self._fd = state['fd'].detach()
        self._map_memory()

    def __del__(self) -> None:
        fd = getattr(self, '_fd', None)
        if fd is not None:
            self._fd = None
            os.close(fd)


# ----------------------------------------------------------------------------
# The order in which training sees the images.


class InfiniteSampler(torch.utils.data.Sampler):
    """Indices into a dataset, without end, a disjoint share of them for each of several processes.

    All processes walk through the same permutation, again and again, and take turns at its elements. Behind the walk
    each visited element is swapped with one of the `window` before it, so that every round has another order while
    an image comes back only after most others were seen.

    Args:
        dataset:       anything with a length.
        rank:          which of the processes this one is.
        num_replicas:  number of processes.
        shuffle:       False = in order.
        seed:          of the permutation and the swaps; the same for all processes.
        window_size:   reach of the swaps as a share of the dataset, from 0 (the same order every round) to 1.
        start:         how many of this process's samples are left out at the beginning, for a run that goes on.
    """

    DRAWS_PER_BLOCK = 4096

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
        start: int = 0,
    ):
        if len(dataset) == 0:
            raise ValueError('The dataset has no images.')
        if not 0 <= rank < num_replicas:
            raise ValueError(f'rank is {rank} of {num_replicas} processes; it counts from 0 to {num_replicas - 1}.')
        if not 0 <= window_size <= 1:
            raise ValueError(f'window_size is {window_size}; it lies between 0 and 1.')
        if start < 0:
            raise ValueError(f'start is {start}; it counts samples from 0.')
        super().__init__()
        self._size = len(dataset)
        self._rank = rank
        self._num_replicas = num_replicas
        self._shuffle = shuffle
        self._seed = seed
        self._window = round(self._size * window_size) if shuffle else 0
        self._start = start

    def __iter__(self) -> Iterator[int]:
        first = self._rank + self._start * self._num_replicas
        for step, index in enumerate(self._walk()):
            if step >= first and step % self._num_replicas == self._rank:
                yield index

    def _walk(self) -> Iterator[int]:
        """What all processes together see."""
        random = np.random.RandomState(self._seed)
        order = np.arange(self._size)
        if self._shuffle:
            random.shuffle(order)
        order = order.tolist()

        position = 0
        while True:
            swap_back = random.randint(max(self._window, 1), size=self.DRAWS_PER_BLOCK).tolist()
            for distance in swap_back:
                yield order[position]
                partner = position - distance  # negative: counted from the end
                order[position], order[partner] = order[partner], order[position]
                position = (position + 1) % self._size
