"""The readers of images, datasets and well-known collections."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dataset_conversion.loading import ALPHA_RULES, load_image
from dataset_conversion.sources import open_source
from dataset_format.images import BadImage, encode_png
from generation.projection.targets import find_targets, load_target
from scripts.fuzzing import structured_mutations as structured
from scripts.fuzzing.file_reader import FileReader, new_folder
from scripts.fuzzing.mutations import BYTE_MUTATIONS, Mutation, mutate_opcodes
from training.dataset import ImageFolderDataset

_SIDE = 8
_NUM_IMAGES = 4


# ---------------------------------------------------------------------------------------------------------------------
# Images


def _pixels(index: int) -> np.ndarray:
    return np.random.RandomState(index).randint(256, size=[_SIDE, _SIDE, 3]).astype(np.uint8)


def _images() -> dict[str, bytes]:
    """Return small images of many formats and modes."""
    rgb = PIL.Image.fromarray(np.kron(_pixels(0), np.ones([2, 2, 1], np.uint8)))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    variants: dict[str, tuple[PIL.Image.Image, dict[str, Any]]] = {
        'png': (rgb, {}),
        'png gray': (rgb.convert('L'), {'format': 'png'}),
        'png palette': (rgb.convert('P'), {'format': 'png', 'transparency': 0}),
        'png alpha': (rgb.convert('RGBA'), {'format': 'png'}),
        'png 16': (rgb.convert('I;16'), {'format': 'png'}),
        'jpeg': (rgb, {'exif': exif}),
        'jpeg cmyk': (rgb.convert('CMYK'), {'format': 'jpeg'}),
        'gif': (rgb.convert('P'), {'save_all': True, 'append_images': [rgb.convert('P').rotate(90)]}),
        'webp': (rgb, {'lossless': True}),
        'tiff': (rgb, {'compression': 'tiff_lzw'}),
        'tiff raw': (rgb.convert('LA'), {'format': 'tiff'}),
        'bmp': (rgb, {}),
        'ppm': (rgb, {}),
        'tga': (rgb, {}),
        'jpeg2000': (rgb, {}),
        'avif': (rgb, {}),
    }
    images = {}
    for name, (image, options) in variants.items():
        file = io.BytesIO()
        image.save(file, **{'format': name, **options})
        images[name] = file.getvalue()
    return images


def image_readers(folder: Path) -> list[FileReader]:
    """Return the readers of single images."""
    images = _images()
    mutations = [*BYTE_MUTATIONS, *[structured.mutate_png] * 2]
    network = new_folder(folder / 'training')

    def convert(path: Path) -> None:
        content = path.read_bytes()
        for rule in ALPHA_RULES[1:]:
            load_image(content, rule)

    def train(path: Path) -> None:
        dataset = ImageFolderDataset(path.parent, cache_mib=0)
        dataset.check_shapes()
        assert dataset[0][0].dtype == np.uint8

    def project(path: Path) -> None:
        [target] = find_targets([str(path)])
        load_target(target, 16, 3)

    plain = {name: images[name] for name in ('png', 'png gray', 'png alpha', 'jpeg')}
    return [
        FileReader(
            'image to convert',
            new_folder(folder / 'convert') / 'x.png',
            images,
            mutations,
            convert,
            BadImage,
            1500,
            frozenset({'png 16'}),
        ),
        FileReader('image to train on', network / 'x.png', plain, mutations, train, ValueError, 1500),
        FileReader(
            'image to project', new_folder(folder / 'project') / 'x.png', images, mutations, project, ValueError, 1500
        ),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Datasets


def _label_json() -> bytes:
    labels = [[f'img{index}.png', index % 2] for index in range(_NUM_IMAGES)]
    return json.dumps({'labels': labels, 'class_names': ['a', 'b']}).encode()


def _vector_json() -> bytes:
    return json.dumps({'labels': [[f'img{index}.png', [index, 0.5]] for index in range(_NUM_IMAGES)]}).encode()


def _dictionary_json() -> bytes:
    return json.dumps({'labels': {f'img{index}.png': 1.0 for index in range(_NUM_IMAGES)}}).encode()


def write_dataset(folder: Path) -> Path:
    """Write a small dataset with labels to a new folder, and return the folder."""
    new_folder(folder)
    for index in range(_NUM_IMAGES):
        (folder / f'img{index}.png').write_bytes(encode_png(_pixels(index)))
    (folder / 'dataset.json').write_bytes(_label_json())
    return folder


def _archive(data: Path, prefix: str = '') -> bytes:
    return structured.zip_of([(prefix + path.name, path.read_bytes()) for path in sorted(data.iterdir())])


def _mutation_of_member(name: str) -> Mutation:
    return structured.mutate_json if name.endswith('.json') else structured.mutate_png


def _read_dataset(path: Path) -> None:
    """Read everything of a dataset, as training does."""
    dataset = ImageFolderDataset(path, use_labels=True, cache_mib=0)
    try:
        for index in range(min(len(dataset), 10)):
            image, label = dataset[index]
            assert list(image.shape) == dataset.image_shape and label.shape == (dataset.label_dim,)
        dataset.check_shapes()
        dataset.content_sha256()
        dataset.metadata_sha256()
    finally:
        dataset.close()


def _read_source(path: Path) -> None:
    """Read everything of a source, as conversion does; images that it leaves out are no refusal."""
    source = open_source(str(path))
    for ticket in source.tickets[:10]:
        try:
            load_image(source.reader.read(ticket))
        except BadImage:
            pass


def dataset_readers(folder: Path, data: Path) -> list[FileReader]:
    """Return the readers of folders and archives of images, and of their labels."""
    archives = {'archive': _archive(data), 'archive with a top folder': _archive(data, 'photos/')}
    in_folder = new_folder(folder / 'folder')
    for path in data.iterdir():
        (in_folder / path.name).write_bytes(path.read_bytes())
    of_archives = [
        *BYTE_MUTATIONS,
        *[structured.zip_mutation(_mutation_of_member)] * len(BYTE_MUTATIONS),
        *[structured.mutate_zip_directory] * 4,
    ]
    labels = {'classes': _label_json(), 'vectors': _vector_json(), 'dictionary': _dictionary_json()}
    of_labels = [*BYTE_MUTATIONS, *[structured.mutate_json] * len(BYTE_MUTATIONS)]
    expected = (ValueError, OSError)

    def read_folder(path: Path) -> None:
        _read_dataset(path.parent)

    def convert_folder(path: Path) -> None:
        _read_source(path.parent)

    training, conversion = new_folder(folder / 'training'), new_folder(folder / 'conversion')
    return [
        FileReader(
            'archive to train on',
            training / 'x.zip',
            archives,
            of_archives,
            _read_dataset,
            expected,
        ),
        FileReader('archive to convert', conversion / 'x.zip', archives, of_archives, _read_source, expected),
        FileReader('labels to train on', in_folder / 'dataset.json', labels, of_labels, read_folder, expected),
        FileReader('labels to convert', in_folder / 'dataset.json', labels, of_labels, convert_folder, expected),
    ]


def _idx(array: np.ndarray) -> bytes:
    """Return an array in the format of MNIST."""
    sizes = b''.join(size.to_bytes(4, 'big') for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def collection_readers(folder: Path) -> list[FileReader]:
    """Return the readers of MNIST and CIFAR-10."""
    mnist = new_folder(folder / 'mnist')
    images, labels = mnist / 'train-images-idx3-ubyte.gz', mnist / 'train-labels-idx1-ubyte.gz'
    images.write_bytes(_idx(np.zeros([3, 28, 28], np.uint8)))
    labels.write_bytes(_idx(np.arange(3, dtype=np.uint8)))
    of_bytes: list[Mutation] = [*BYTE_MUTATIONS]
    of_gzip = [*of_bytes, *map(structured.gzip_mutation, of_bytes)]

    batch = {'data': np.zeros([2, 3072], np.uint8), 'labels': [0, 1]}
    names = {'label_names': [str(index) for index in range(10)]}
    contents = {f'data_batch_{number}': batch for number in range(1, 6)} | {'batches.meta': names}
    members = [(f'cifar-10-batches-py/{name}', pickle.dumps(value, 2)) for name, value in contents.items()]
    cifar = {'CIFAR-10': structured.tar_gz_of(members)}
    of_tar = [*of_bytes, *map(structured.tar_gz_mutation, [*of_bytes, *[mutate_opcodes] * len(of_bytes)])]
    cifar_path = new_folder(folder / 'cifar') / 'cifar-10-python.tar.gz'
    expected = (ValueError, OSError)
    return [
        FileReader('images of MNIST', images, {'MNIST': images.read_bytes()}, of_gzip, _read_source, expected),
        FileReader('CIFAR-10', cifar_path, cifar, of_tar, _read_source, expected),
    ]
