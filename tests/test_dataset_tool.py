"""dataset_tool.py as users run it: sources, transforms, labels, bad images, invalid options."""

import gzip
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import dataset_tool
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).resolve().parent.parent


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return a smooth image, different for each seed."""
    small = np.random.RandomState(seed).randint(0, 256, [5, 6, *shape[2:]], dtype=np.uint8)
    return np.asarray(PIL.Image.fromarray(small).resize((shape[1], shape[0]), PIL.Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray, **options: object) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, **options)
    return pixels


def make_folder(path: Path, num: int = 6, size: int = 16, classes: int = 2) -> dict[str, np.ndarray]:
    """Write PNGs to the folders a/, b/, ... and return their pixels by name."""
    names = [f'{chr(ord("a") + i % classes)}/{i:03d}.png' for i in range(num)]
    return {name: save(path / name, random_pixels(size, size, 3, seed=i)) for i, name in enumerate(names)}


def zip_folder(folder: Path, dest: Path) -> Path:
    with zipfile.ZipFile(dest, 'w', zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob('*'), reverse=True):
            archive.write(path, path.relative_to(folder))
    return dest


def call(*args: object, status: int = 0) -> str:
    """Run the script in this process and return its output."""
    result = CliRunner().invoke(dataset_tool.main, [str(arg) for arg in args])
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return ' '.join(result.output.split())


def read(dest: Path) -> tuple[list[np.ndarray], dict]:
    """Return the pixels as decoded by Pillow, in order, and the content of dataset.json."""
    with zipfile.ZipFile(dest) as archive:
        names = archive.namelist()
        assert names[:-1] == [f'{i // 1000:05d}/img{i:08d}.png' for i in range(len(names) - 1)]
        pixels = [np.asarray(PIL.Image.open(io.BytesIO(archive.read(name)))) for name in names[:-1]]
        return pixels, json.loads(archive.read('dataset.json'))


def labels_of(data: dict) -> list:
    assert [name for name, _label in data['labels']] == [
        f'{i // 1000:05d}/img{i:08d}.png' for i in range(len(data['labels']))
    ]
    return [label for _name, label in data['labels']]


def assert_nothing_in(folder: Path) -> None:
    assert list(folder.iterdir()) == []


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results only, so that tests can check what is left in it."""
    path = tmp_path / 'out'
    path.mkdir()
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Sources


def test_folder_and_zip_give_the_same_dataset(tmp_path: Path, out: Path):
    images = make_folder(tmp_path / 'in')
    (tmp_path / 'in' / 'notes.txt').write_text('no image')
    save(tmp_path / 'in' / '.hidden.png', random_pixels(16, 16, 3))
    message = call('--source', tmp_path / 'in', '--dest', out / 'a.zip')
    assert '6 images, 16x16 RGB' in message
    call('--source', zip_folder(tmp_path / 'in', tmp_path / 'in.zip'), '--dest', out / 'b.zip')
    assert (out / 'a.zip').read_bytes() == (out / 'b.zip').read_bytes()
    pixels, data = read(out / 'a.zip')
    np.testing.assert_array_equal(pixels, [images[name] for name in sorted(images)])
    assert data == {'labels': None}


def test_folder_destination_holds_what_an_archive_holds(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in')
    call('--source', tmp_path / 'in', '--dest', out / 'new' / 'data')
    call('--source', tmp_path / 'in', '--dest', out / 'data.zip')
    with zipfile.ZipFile(out / 'data.zip') as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    folder = out / 'new' / 'data'
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()} == contents
    assert [path.name for path in (out / 'new').iterdir()] == ['data']


def test_archive_is_stored_with_uncompressed_pngs(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in', size=32)
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip')
    with zipfile.ZipFile(out / 'a.zip') as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.getinfo('00000/img00000000.png').file_size > 32 * 32 * 3


def test_lsun_database(tmp_path: Path, out: Path):
    lmdb = pytest.importorskip('lmdb')
    images = [random_pixels(24, 40, 3, seed=i) for i in range(3)]
    with lmdb.open(str(tmp_path / 'cat_lmdb'), map_size=2**24) as environment, environment.begin(write=True) as txn:
        for i, pixels in enumerate(images):
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).save(file, 'webp', lossless=True)
            txn.put(f'key{i}'.encode(), file.getvalue())
        txn.put(b'key9', b'damaged')
    args = ['--source', tmp_path / 'cat_lmdb', '--transform=center-crop', '--resolution=16x16', '--workers=1']
    call(*args, '--dest', out / 'a.zip', '--skip-bad')
    expected = [
        np.asarray(PIL.Image.fromarray(p[:, 8:32]).resize((16, 16), PIL.Image.Resampling.LANCZOS)) for p in images
    ]
    np.testing.assert_array_equal(read(out / 'a.zip')[0], expected)
    call(*args, '--dest', out / 'b.zip', '--max-images=2')
    assert len(read(out / 'b.zip')[0]) == 2
    assert 'key9: unreadable' in call(*args, '--dest', out / 'c.zip', status=1)


def test_lsun_without_the_package_says_what_to_install(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'cat_lmdb').mkdir()
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    assert 'pip install lmdb' in call('--source', tmp_path / 'cat_lmdb', '--dest', out / 'a.zip', status=2)


class Python2Pickle:
    """Writes pickles like those of CIFAR-10: protocol 2, byte strings as keys, `numpy.core.multiarray`."""

    @staticmethod
    def text(value: str) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode()

    @classmethod
    def dumps(cls, batch: dict) -> bytes:
        parts = [pickle.PROTO + b'\x02', pickle.EMPTY_DICT]
        for key, value in batch.items():
            if isinstance(value, np.ndarray):
                raw = value.tobytes()
                body = (
                    pickle.GLOBAL
                    + b'numpy.core.multiarray\n_reconstruct\n'
                    + pickle.GLOBAL
                    + b'numpy\nndarray\n'
                    + pickle.BININT1
                    + b'\0'
                    + pickle.TUPLE1
                    + cls.text('b')
                    + pickle.TUPLE3
                    + pickle.REDUCE
                    + pickle.MARK
                    + pickle.BININT1
                    + b'\1'
                    + b''.join(pickle.BININT + n.to_bytes(4, 'little') for n in value.shape)
                    + pickle.TUPLE2
                    + pickle.GLOBAL
                    + b'numpy\ndtype\n'
                    + cls.text('u1')
                    + pickle.BININT1
                    + b'\0'
                    + pickle.BININT1
                    + b'\1'
                    + pickle.TUPLE3
                    + pickle.REDUCE
                    + pickle.MARK
                    + pickle.BININT1
                    + b'\3'
                    + cls.text('|')
                    + pickle.NONE * 3
                    + (pickle.BININT + (-1).to_bytes(4, 'little', signed=True)) * 2
                    + pickle.BININT1
                    + b'\0'
                    + pickle.TUPLE
                    + pickle.BUILD
                    + pickle.NEWFALSE
                    + pickle.BINSTRING
                    + len(raw).to_bytes(4, 'little')
                    + raw
                    + pickle.TUPLE
                    + pickle.BUILD
                )
            else:
                items = [pickle.BININT1 + bytes([v]) if isinstance(v, int) else cls.text(v) for v in value]
                body = pickle.EMPTY_LIST + pickle.MARK + b''.join(items) + pickle.APPENDS
            parts += [cls.text(key), body, pickle.SETITEM]
        return b''.join(parts) + pickle.STOP


CIFAR_NAMES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']


def cifar_files() -> tuple[dict[str, bytes], np.ndarray, list[int]]:
    """Return the content of the tar archive by name, the pixels (NHWC) and the labels."""
    pixels = np.random.RandomState(0).randint(0, 256, [15, 3, 32, 32], dtype=np.uint8)  # NCHW
    labels = [i * 7 % 10 for i in range(15)]
    files = {
        f'data_batch_{b + 1}': Python2Pickle.dumps(
            {'data': pixels[b * 3 : b * 3 + 3].reshape(3, -1), 'labels': labels[b * 3 : b * 3 + 3]}
        )
        for b in range(5)
    }
    files['batches.meta'] = Python2Pickle.dumps({'label_names': CIFAR_NAMES})
    files['test_batch'] = b'not read'
    return files, pixels.transpose(0, 2, 3, 1), labels


def write_cifar(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    archive_path = path / 'cifar-10-python.tar.gz'
    with tarfile.open(archive_path, 'w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f'cifar-10-batches-py/{name}')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return archive_path


def test_cifar10(tmp_path: Path, out: Path):
    files, images, labels = cifar_files()
    call('--source', write_cifar(tmp_path, files), '--dest', out / 'a.zip')
    pixels, data = read(out / 'a.zip')
    np.testing.assert_array_equal(pixels, images)
    assert labels_of(data) == labels
    assert data['class_names'] == CIFAR_NAMES


def test_cifar10_written_by_python_3(tmp_path: Path, out: Path):
    files, images, labels = cifar_files()
    for batch in range(5):
        content = {
            'data': np.ascontiguousarray(images[batch * 3 : batch * 3 + 3].transpose(0, 3, 1, 2)).reshape(3, -1),
            'labels': labels[batch * 3 : batch * 3 + 3],
        }
        files[f'data_batch_{batch + 1}'] = pickle.dumps(content, protocol=2 if batch % 2 else 4)
    call('--source', write_cifar(tmp_path, files), '--dest', out / 'a.zip')
    np.testing.assert_array_equal(read(out / 'a.zip')[0], images)


class Hostile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_cifar10_pickle_cannot_run_code(tmp_path: Path, out: Path, protocol: int):
    files, _images, _labels = cifar_files()
    marker = tmp_path / 'executed'
    files['data_batch_2'] = pickle.dumps({'data': Hostile(marker), 'labels': []}, protocol)
    message = call('--source', write_cifar(tmp_path, files), '--dest', out / 'a.zip', status=2)
    assert not marker.exists()
    assert 'data_batch_2' in message and 'mkdir' in message and 'only numpy arrays are allowed' in message
    assert_nothing_in(out)


@pytest.mark.parametrize(
    'name, content, word',
    [
        ('data_batch_3', None, 'data_batch_3'),
        ('data_batch_3', b'\x80\x02}q', 'cannot be read'),
        ('data_batch_3', Python2Pickle.dumps({'labels': [1]}), 'data and labels'),
        ('data_batch_3', Python2Pickle.dumps({'data': np.zeros([2, 5], np.uint8), 'labels': [1, 2]}), '3072'),
        ('data_batch_3', Python2Pickle.dumps({'data': np.zeros([2, 3072], np.uint8), 'labels': [1]}), '2 integers'),
        ('batches.meta', Python2Pickle.dumps({'label_names': ['cat']}), '10 classes'),
        ('batches.meta', b'\x80\2cnumpy\ndtype\nU\1O\x85R.', "names numpy.dtype('O')"),
    ],
    ids=['missing', 'damaged', 'no-data', 'data-shape', 'label-count', 'names', 'objects'],
)
def test_cifar10_incomplete(tmp_path: Path, out: Path, name: str, content: bytes | None, word: str):
    files, _images, _labels = cifar_files()
    files[name] = content
    files = {name: content for name, content in files.items() if content is not None}
    assert word in call('--source', write_cifar(tmp_path, files), '--dest', out / 'a.zip', status=2)


def write_mnist(folder: Path, pixels: np.ndarray, labels: list[int]) -> Path:
    path = folder / 'train-images-idx3-ubyte.gz'
    sizes = b''.join(n.to_bytes(4, 'big') for n in pixels.shape)
    path.write_bytes(gzip.compress(b'\0\0\x08\x03' + sizes + pixels.tobytes()))
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(
        gzip.compress(b'\0\0\x08\x01' + len(labels).to_bytes(4, 'big') + bytes(labels))
    )
    return path


def test_mnist_is_padded(tmp_path: Path, out: Path):
    images = np.random.RandomState(0).randint(1, 256, [4, 28, 28], dtype=np.uint8)
    call('--source', write_mnist(tmp_path, images, [3, 0, 9, 3]), '--dest', out / 'a.zip')
    pixels, data = read(out / 'a.zip')
    expected = np.zeros([4, 32, 32], np.uint8)
    expected[:, 2:30, 2:30] = images
    np.testing.assert_array_equal(pixels, expected)
    assert labels_of(data) == [3, 0, 9, 3]


def test_mnist_incomplete(tmp_path: Path, out: Path):
    images = np.zeros([4, 28, 28], np.uint8)
    path = write_mnist(tmp_path, images, [1, 2, 3])
    assert 'for 4 images' in call('--source', path, '--dest', out / 'a.zip', status=2)
    (tmp_path / 'train-labels-idx1-ubyte.gz').unlink()
    assert 'train-labels-idx1-ubyte.gz' in call('--source', path, '--dest', out / 'a.zip', status=2)
    write_mnist(tmp_path, images, [1, 2, 3, 4])
    path.write_bytes(path.read_bytes()[:-9])
    assert 'not a complete gzip file' in call('--source', path, '--dest', out / 'a.zip', status=2)
    path.write_bytes(gzip.compress(b'\0\0\x08\x03' + b'\0\0\0\x07' * 3 + b'1234'))
    assert 'download it again' in call('--source', path, '--dest', out / 'a.zip', status=2)


def test_digits(out: Path):
    digits = pytest.importorskip('sklearn.datasets').load_digits()
    assert '1797 images, 32x32 grayscale, 10 classes' in call('--source=digits', '--dest', out / 'a.zip', '--workers=1')
    pixels, data = read(out / 'a.zip')
    assert labels_of(data) == digits.target.tolist()
    assert data['class_names'] == list('0123456789')
    for pixels_32, values in zip(pixels[::100], digits.images[::100]):
        small = PIL.Image.fromarray(np.rint(values * 255 / 16).astype(np.uint8))
        np.testing.assert_array_equal(pixels_32, np.asarray(small.resize((32, 32), PIL.Image.Resampling.LANCZOS)))

    call('--source=digits', '--dest', out / 'b.zip', '--resolution=8x8', '--max-images=5', '--workers=1')
    np.testing.assert_allclose(read(out / 'b.zip')[0], digits.images[:5] * 255 / 16, atol=0.5)


def test_digits_without_the_package_says_what_to_install(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    assert 'pip install scikit-learn' in call('--source=digits', '--dest', out / 'a.zip', status=2)


# ---------------------------------------------------------------------------------------------------------------------
# Transforms

FILTERS = {'box': PIL.Image.Resampling.BOX, 'lanczos': PIL.Image.Resampling.LANCZOS}


@pytest.mark.parametrize('resize_filter', FILTERS)
@pytest.mark.parametrize('channels', [(), (3,)])
@pytest.mark.parametrize('size', [(37, 52), (52, 37), (9, 30)])
def test_scaling_agrees_with_pillow(tmp_path: Path, out: Path, resize_filter: str, channels: tuple, size: tuple):
    height, width = size
    image = save(tmp_path / 'in' / 'x.png', random_pixels(height, width, *channels))
    args = ['--source', tmp_path / 'in', '--resize-filter', resize_filter, '--resolution=16x16']

    call(*args, '--dest', out / 'plain.zip')
    expected = np.asarray(PIL.Image.fromarray(image).resize((16, 16), FILTERS[resize_filter]))
    np.testing.assert_array_equal(read(out / 'plain.zip')[0][0], expected)

    call(*args, '--transform=center-crop', '--dest', out / 'crop.zip')
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = PIL.Image.fromarray(image[top : top + side, left : left + side])
    np.testing.assert_array_equal(
        read(out / 'crop.zip')[0][0], np.asarray(square.resize((16, 16), FILTERS[resize_filter]))
    )


def test_width_and_height_are_a_resolution(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in', num=2)
    call('--source', tmp_path / 'in', '--resolution=8x8', '--dest', out / 'a.zip')
    call('--source', tmp_path / 'in', '--width=8', '--height=8', '--dest', out / 'b.zip')
    assert (out / 'a.zip').read_bytes() == (out / 'b.zip').read_bytes()


@pytest.mark.parametrize('resize_filter', FILTERS)
@pytest.mark.parametrize('channels', [(), (3,)])
def test_center_crop_wide(tmp_path: Path, out: Path, resize_filter: str, channels: tuple):
    high = save(tmp_path / 'in' / '0.png', random_pixels(61, 64, *channels, seed=0))
    wide = save(tmp_path / 'in' / '1.png', random_pixels(24, 60, *channels, seed=1))
    save(tmp_path / 'in' / '2.png', random_pixels(40, 31, *channels, seed=2))
    save(tmp_path / 'in' / '3.png', random_pixels(23, 90, *channels, seed=3))
    message = call(
        '--source',
        tmp_path / 'in',
        '--transform=center-crop-wide',
        '--resolution=32x24',
        '--resize-filter',
        resize_filter,
        '--dest',
        out / 'a.zip',
    )
    assert '2 images, 32x32' in message and '2 too small' in message

    parts = [high[6:54], wide[:, 14:46]]  # 64x48 and 32x24
    expected = np.zeros([2, 32, 32, *channels], np.uint8)
    for canvas, part in zip(expected, parts):
        canvas[4:28] = np.asarray(PIL.Image.fromarray(part).resize((32, 24), FILTERS[resize_filter]))
    np.testing.assert_array_equal(read(out / 'a.zip')[0], expected)


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def write_labels(folder: Path, labels: object, **more: object) -> None:
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels, **more}))


@pytest.mark.parametrize('values', [[5, 0, 3], [[1, 0], [0, 0], [1, 1]], [[0.25, -1.5], [0, 1e-3], [1, 2]]])
@pytest.mark.parametrize('as_zip', [False, True])
def test_labels_from_label_file(tmp_path: Path, out: Path, values: list, as_zip: bool):
    images = make_folder(tmp_path / 'in', num=3)
    by_name = dict(zip(images, values))
    write_labels(tmp_path / 'in', [[name.replace('/', '\\'), by_name[name]] for name in images])
    source = zip_folder(tmp_path / 'in', tmp_path / 'in.zip') if as_zip else tmp_path / 'in'
    call('--source', source, '--dest', out / 'a.zip')
    pixels, data = read(out / 'a.zip')
    assert labels_of(data) == [by_name[name] for name in sorted(images)]
    np.testing.assert_array_equal(pixels, [images[name] for name in sorted(images)])
    dataset = ImageFolderDataset(out / 'a.zip', use_labels=True)
    assert dataset.label_dim == (6 if isinstance(values[0], int) else 2)


def test_class_names_are_kept(tmp_path: Path, out: Path):
    images = make_folder(tmp_path / 'in', num=4)
    write_labels(tmp_path / 'in', [[name, i % 2] for i, name in enumerate(images)], class_names=['Katze', 'Hündin'])
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip')
    assert read(out / 'a.zip')[1]['class_names'] == ['Katze', 'Hündin']
    assert ImageFolderDataset(out / 'a.zip', use_labels=True).class_names == ['Katze', 'Hündin']


def test_null_labels_are_no_labels(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in')
    write_labels(tmp_path / 'in', None)
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip')
    assert read(out / 'a.zip')[1] == {'labels': None}


@pytest.mark.parametrize('as_zip', [False, True])
def test_subfolders_as_labels(tmp_path: Path, out: Path, as_zip: bool):
    make_folder(tmp_path / 'in', num=7, classes=3)
    save(tmp_path / 'in' / 'b' / 'deep' / 'x.png', random_pixels(16, 16, 3))
    write_labels(tmp_path / 'in', 'ignored')
    source = zip_folder(tmp_path / 'in', tmp_path / 'in.zip') if as_zip else tmp_path / 'in'
    call('--source', source, '--dest', out / 'a.zip', '--subfolders-as-labels')
    _pixels, data = read(out / 'a.zip')
    assert labels_of(data) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert data['class_names'] == ['a', 'b', 'c']


@pytest.mark.parametrize(
    'folders',
    [
        ['1', '2', '10'],
        ['008', '9', '10'],
        ['-1', '0.5', '1', '10'],
        ['1', '10', '2', 'x'],
    ],
)
def test_folders_that_are_numbers_are_sorted_as_numbers(tmp_path: Path, out: Path, folders: list[str]):
    for name in folders:
        save(tmp_path / 'in' / name / 'a.png', random_pixels(8, 8, 3))
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--subfolders-as-labels')
    _pixels, data = read(out / 'a.zip')
    assert data['class_names'] == folders
    assert sorted(labels_of(data)) == list(range(len(folders)))
    for name, label in zip(sorted(folders), labels_of(data)):  # images are ordered by name
        assert folders[label] == name


def test_names_of_images_do_not_control_the_terminal(tmp_path: Path, out: Path):
    source = tmp_path / 'in.zip'
    with zipfile.ZipFile(source, 'w') as archive:
        for name in ('\x1b[2Jbad.png', f'{"x" * 60_000}.png'):
            archive.writestr(name, b'no image')
    message = call('--source', source, '--dest', out / 'a.zip', status=1)
    assert '?[2Jbad.png' in message and '\x1b' not in message and len(message) < 2000


def test_labels_stay_with_their_images_when_some_are_left_out(tmp_path: Path, out: Path):
    images = make_folder(tmp_path / 'in', num=6)
    (tmp_path / 'in' / 'a' / '002.png').write_bytes(b'damaged')
    write_labels(tmp_path / 'in', [[name, int(name[2:5])] for name in images])
    message = call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--skip-bad')
    assert 'left out: a/002.png: unreadable' in message and '1 bad' in message
    pixels, data = read(out / 'a.zip')
    assert labels_of(data) == [0, 4, 1, 3, 5]
    for image, label in zip(pixels, labels_of(data)):
        np.testing.assert_array_equal(image, next(images[name] for name in images if int(name[2:5]) == label))


A, B, C = 'a/000.png', 'a/002.png', 'b/001.png'  # what make_folder(num=3) makes


@pytest.mark.parametrize(
    'labels, words',
    [
        ([[A, 0]], ['2 of 3 images', B, C]),
        ([[A, 0], [B, 1], [C, 2], ['gone.png', 3], ['lost.png', 1]], ['2 labels that match no image', 'gone.png']),
        ([[A, 0], [B, [0, 1]], [C, 2]], ['different kinds', A, B]),
        ([[A, [1, 0]], [B, [0, 1, 0]], [C, [1, 1]]], ['length 2', 'length 3']),
        ([[A, 0], [A, 1], [B, 0], [C, 2]], ['more than one label', A]),
        ([[A, -1], [B, 1], [C, 2]], [A, '-1']),
        ([[A, 1.5], [B, 1], [C, 2]], [A, '1.5']),
        ([[A, []], [B, []], [C, []]], [A, '[]']),
        ([[A, [float('nan')]], [B, [1]], [C, [2]]], ['NaN']),
        ([[A, [1e39]], [B, [1]], [C, [2]]], [A, '1e+39', 'float32']),
        ([[A, [10**400]], [B, [1]], [C, [2]]], [A, '1000', 'float32']),
        ([[A, ['1']], [B, [1]], [C, [2]]], [A, "['1']"]),
        ([[A, 2**63], [B, 1], [C, 2]], [A, str(2**63), 'from 0 to 99999']),
        ([[A, 10**30], [B, 1], [C, 2]], [A, '1000', 'from 0 to 99999']),
        ([[A, 1e30], [B, 1], [C, 2]], [A, '1e+30', 'from 0 to 99999']),
        ([[A, 10**9], [B, 1], [C, 2]], [A, '1000000000', 'from 0 to 99999']),
        ([[A, [0] * 100_001], [B, [1]], [C, [2]]], [A, '100001 entries']),
        ([[A, None], [B, 1], [C, 2]], [A, 'None']),
        ([[A, '-1'], [B, 1], [C, 2]], [A, '-1']),
        ([[A, 'cat'], [B, 1], [C, 2]], [A, 'cat']),
        ([A, B, C], ['entry 0']),
        ({A: 1}, ['2 of 3 images', B, C]),
        (7, ['neither a list nor null']),
    ],
)
def test_invalid_labels(tmp_path: Path, out: Path, labels: object, words: list[str]):
    make_folder(tmp_path / 'in', num=3)
    write_labels(tmp_path / 'in', labels)
    message = call('--source', tmp_path / 'in', '--dest', out / 'a.zip', status=2)
    assert 'dataset.json' in message
    for word in words:
        assert word in message
    assert_nothing_in(out)


@pytest.mark.parametrize(
    'content, word',
    [
        ('{', 'not valid JSON'),
        ('[]', 'no "labels"'),
        ('{}', 'no "labels"'),
        ('\xff', 'not valid JSON'),
        ('{"labels": ' + '[' * 100_000 + ']' * 100_000 + '}', 'nested more than'),
        ('{"labels": [["a/000.png", 1e400]]}', 'beyond the range'),
    ],
)
def test_damaged_label_file(tmp_path: Path, out: Path, content: str, word: str):
    make_folder(tmp_path / 'in', num=3)
    (tmp_path / 'in' / 'dataset.json').write_bytes(content.encode('latin1'))
    assert word in call('--source', tmp_path / 'in', '--dest', out / 'a.zip', status=2)


@pytest.mark.parametrize('class_names', [['one'], ['one', 'one'], 'ab', [1, 2]])
def test_invalid_class_names(tmp_path: Path, out: Path, class_names: object):
    images = make_folder(tmp_path / 'in', num=3)
    write_labels(tmp_path / 'in', [[name, i % 2] for i, name in enumerate(images)], class_names=class_names)
    assert '"class_names"' in call('--source', tmp_path / 'in', '--dest', out / 'a.zip', status=2)


def test_subfolders_as_labels_needs_subfolders(tmp_path: Path, out: Path):
    save(tmp_path / 'in' / 'x.png', random_pixels(16, 16))
    save(tmp_path / 'in' / 'a' / 'y.png', random_pixels(16, 16))
    args = ['--subfolders-as-labels', '--dest', out / 'a.zip']
    message = call('--source', tmp_path / 'in', *args, status=2)
    assert "'--subfolders-as-labels'" in message and '1 images' in message
    (tmp_path / 'in' / 'x.png').unlink()
    message = call('--source', tmp_path / 'in', *args, status=2)
    assert "'--subfolders-as-labels'" in message and 'in the same folder a' in message
    message = call('--source=digits', *args, status=2)
    assert "'--subfolders-as-labels'" in message and 'has no folders' in message


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of images


def as_png(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    image = PIL.Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, options.pop('format', 'png'), **options)
    return file.getvalue()


def png_16_bit_rgb() -> bytes:
    """Return a file that Pillow cannot write: an 8-bit PNG of twice the width with 16 bits in its header."""
    import zlib

    content = bytearray(as_png(random_pixels(16, 32, 3), compress_level=0))
    content[16:20] = (16).to_bytes(4, 'big')
    content[24] = 16
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    return bytes(content)


def tiff_16_bit(channels: int) -> bytes:
    """Return a file that Pillow cannot write: RGB, or RGB with alpha, little-endian, one strip."""
    extra_samples = [(338, 3, 1, 2)] if channels == 4 else []
    tags = [
        (256, 4, 1, 16),
        (257, 4, 1, 16),
        (258, 3, channels, None),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, None),
        (277, 3, 1, channels),
        (278, 4, 1, 16),
        (279, 4, 1, 16 * 16 * channels * 2),
    ]
    tags += extra_samples
    bits_at = 8 + 2 + 12 * len(tags) + 4
    offsets = {258: bits_at, 273: bits_at + 2 * channels}
    entries = [struct.pack('<HHII', tag, kind, count, offsets.get(tag, value)) for tag, kind, count, value in tags]
    return b''.join(
        [
            b'II*\0',
            struct.pack('<IH', 8, len(tags)),
            *entries,
            bytes(4),
            struct.pack(f'<{channels}H', *[16] * channels),
            bytes(16 * 16 * channels * 2),
        ]
    )


def with_deep_header(file_format: str, changes: dict[bytes, tuple[int, bytes]]) -> bytes:
    """Return an 8-bit image with another bit depth in its header; `changes` maps a box to (offset, new bytes)."""
    content = bytearray(as_png(RGB, format=file_format))
    for box, (offset, new) in changes.items():
        start = content.index(box) + offset
        content[start : start + len(new)] = new
    return bytes(content)


RGB = random_pixels(16, 16, 3)
GRAY = random_pixels(16, 16)
OPAQUE = np.dstack([RGB, np.full([16, 16], 255, np.uint8)])
GLASSY = np.dstack([RGB, np.full([16, 16], 254, np.uint8)])
PALETTE = np.asarray(PIL.Image.fromarray(RGB).convert('P').convert('RGB'))
CMYK = as_png(RGB, 'CMYK', format='tiff')

KINDS = {
    'gray': (as_png(GRAY), GRAY),
    'rgb': (as_png(RGB), RGB),
    'bilevel': (as_png(GRAY, '1'), np.asarray(PIL.Image.fromarray(GRAY).convert('1').convert('L'))),
    'palette': (as_png(RGB, 'P'), PALETTE),
    'opaque': (as_png(OPAQUE), RGB),
    'opaque-gray': (as_png(np.dstack([GRAY, np.full_like(GRAY, 255)])), GRAY),
    'cmyk': (CMYK, np.asarray(PIL.Image.open(io.BytesIO(CMYK)).convert('RGB'))),
    'turned': (as_png(RGB, exif=b'Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0'), np.rot90(RGB, -1)),
    'animated': (as_png(RGB, save_all=True, append_images=[PIL.Image.fromarray(255 - RGB)]), RGB),
    'glassy': (as_png(GLASSY), 'transparent'),
    'gray-key': (as_png(GRAY, transparency=int(GRAY[0, 0])), 'transparent'),
    'palette-key': (
        as_png(RGB, 'P', transparency=int(np.asarray(PIL.Image.fromarray(RGB).convert('P'))[0, 0])),
        'transparent',
    ),
    '16-bit': (as_png(GRAY.astype(np.uint16) * 257), '8 bits'),
    '16-bit-rgb': (png_16_bit_rgb(), '8 bits'),
    '16-bit-tiff': (tiff_16_bit(3), '8 bits'),
    '16-bit-tiff-alpha': (tiff_16_bit(4), '8 bits'),
    '16-bit-ppm': (b'P6 16 16 65535\n' + bytes(16 * 16 * 6), '8 bits'),
    '16-bit-ppm-text': (b'P3 16 16 65535\n' + b'65535 ' * (16 * 16 * 3), '8 bits'),
    '8-bit-ppm': (b'P6 16 16 255\n' + RGB.tobytes(), RGB),
    'deep-jpeg-2000': (with_deep_header('jpeg2000', {b'ihdr': (14, b'\x0f')}), '8 bits'),
    'float': (as_png(GRAY.astype(np.float32), format='tiff'), '8 bits'),
    'not-square': (as_png(random_pixels(16, 24, 3)), random_pixels(16, 24, 3)),
    'narrow': (as_png(random_pixels(80, 16, 3)), '16x80 is not a supported size'),
    'odd': (as_png(random_pixels(22, 22, 3)), 'nearest are 24x24'),
    'tiny': (as_png(random_pixels(2, 2, 3)), 'nearest are 4x4'),
    'empty': (b'', 'empty'),
    'text': (b'hello', 'not an image'),
    'cut': (as_png(RGB)[:200], 'unreadable'),
    'cut-jpeg': (as_png(RGB, format='jpeg')[:-100], 'unreadable'),
}
PIL.Image.init()
if 'AVIF' in PIL.Image.SAVE:  # Pillow 11.3 or newer
    KINDS['deep-avif'] = (with_deep_header('avif', {b'av1C': (6, b'\x40'), b'pixi': (9, b'\n\n\n')}), '8 bits')


@pytest.mark.parametrize('kind', KINDS)
def test_kinds_of_images(tmp_path: Path, out: Path, kind: str):
    content, expected = KINDS[kind]
    path = tmp_path / 'in' / f'{kind}.png'
    path.parent.mkdir()
    path.write_bytes(content)
    if isinstance(expected, str):
        message = call('--source', tmp_path / 'in', '--dest', out / 'a.zip', status=1)
        assert f'{kind}.png: ' in message and expected in message
        assert_nothing_in(out)
    else:
        call('--source', tmp_path / 'in', '--dest', out / 'a.zip')
        np.testing.assert_array_equal(read(out / 'a.zip')[0][0], expected)


HALF = np.dstack([RGB, np.arange(256, dtype=np.uint8).reshape(16, 16)])
HALF_GRAY = HALF[:, :, 2:]
KEYED = as_png(GRAY, transparency=int(GRAY[0, 0]))


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Composite on white in floating point, which may differ by 1 from Pillow's integer arithmetic."""
    alpha = pixels[:, :, -1:] / 255
    return np.rint(pixels[:, :, :-1] * alpha + 255 * (1 - alpha))


def black_where_transparent(pixels: np.ndarray) -> np.ndarray:
    return pixels * (pixels[:, :, -1:] > 0)


KEPT = {
    'alpha': (as_png(HALF), black_where_transparent(HALF)),
    'gray-alpha': (as_png(HALF_GRAY), black_where_transparent(HALF_GRAY)),
    'rgb': (as_png(RGB), OPAQUE),
    'gray': (as_png(GRAY), np.dstack([GRAY, np.full_like(GRAY, 255)])),
    'gray-key': (KEYED, black_where_transparent(np.dstack([GRAY, (GRAY != GRAY[0, 0]) * np.uint8(255)]))),
    'palette': (as_png(RGB, 'P'), np.dstack([PALETTE, OPAQUE[:, :, 3]])),
    'cmyk': (CMYK, np.dstack([np.asarray(PIL.Image.open(io.BytesIO(CMYK)).convert('RGB')), OPAQUE[:, :, 3]])),
    'turned': (
        as_png(HALF, exif=b'Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0'),
        np.rot90(black_where_transparent(HALF), -1),
    ),
}


@pytest.mark.parametrize('kind', KEPT)
def test_alpha_is_kept(tmp_path: Path, out: Path, kind: str):
    content, expected = KEPT[kind]
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'x.png').write_bytes(content)
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--alpha=keep')
    np.testing.assert_array_equal(read(out / 'a.zip')[0][0], expected)
    image, _label = ImageFolderDataset(out / 'a.zip')[0]
    np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize('pixels', [HALF, HALF_GRAY], ids=['rgb', 'gray'])
def test_alpha_on_white(tmp_path: Path, out: Path, pixels: np.ndarray):
    save(tmp_path / 'in' / 'x.png', pixels)
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--alpha=white')
    result = read(out / 'a.zip')[0][0]
    np.testing.assert_allclose(result.reshape(16, 16, -1), over_white(pixels), atol=1)
    np.testing.assert_array_equal(result.reshape(16, 16, -1)[0, 0], 255)


def test_deep_channels_are_refused_with_alpha_kept(tmp_path: Path, out: Path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'x.png').write_bytes(tiff_16_bit(4))
    assert '8 bits' in call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--alpha=keep', status=1)


def test_scaling_ignores_transparent_pixels(tmp_path: Path, out: Path):
    pixels = np.zeros([32, 32, 4], np.uint8)
    pixels[:, :16] = (200, 100, 50, 255)
    pixels[:, 16:, :3] = (0, 255, 0)  # transparent
    save(tmp_path / 'in' / 'x.png', pixels)
    call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--alpha=keep', '--resolution=12x12')
    result = read(out / 'a.zip')[0][0].astype(int)
    seen = result[result[:, :, 3] > 32]
    assert len(seen) >= 72 and np.abs(seen[:, :3] - (200, 100, 50)).max() <= 4
    assert not result[result[:, :, 3] == 0].any()


@pytest.mark.parametrize('size', [(96, 64), (64, 96), (48, 48)])
def test_center_crop_has_the_requested_proportions(tmp_path: Path, out: Path, size: tuple[int, int]):
    """A disc remains a disc, and the center remains in the center."""
    y, x = np.mgrid[:200, :300]
    disc = ((x - 149.5) ** 2 + (y - 99.5) ** 2 < 60**2) * np.uint8(255)
    save(tmp_path / 'in' / 'x.png', disc)
    width, height = size
    arguments = ['--transform=center-crop', f'--resolution={width}x{height}']
    assert f'{width}x{height} grayscale' in call('--source', tmp_path / 'in', '--dest', out / 'a.zip', *arguments)
    inside = read(out / 'a.zip')[0][0] > 127
    scale = max(width / 300, height / 200)
    assert inside.shape == (height, width)
    for axis, length in ((0, width), (1, height)):
        where = np.flatnonzero(inside.any(axis=axis))
        assert abs(len(where) - 120 * scale) <= 1.5 and abs(where.mean() - (length - 1) / 2) <= 0.5


def test_wide_crops_of_transparent_images(tmp_path: Path, out: Path):
    save(tmp_path / 'in' / 'x.png', np.full([32, 48, 4], 255, np.uint8))
    call(
        '--source',
        tmp_path / 'in',
        '--dest',
        out / 'a.zip',
        '--transform=center-crop-wide',
        '--resolution=24x16',
        '--alpha=keep',
    )
    result = read(out / 'a.zip')[0][0]
    assert result.shape == (24, 24, 4) and (result[4:20] == 255).all()
    assert not result[:4].any() and not result[20:].any()


def test_every_bad_image_is_named(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in', num=5)
    save(tmp_path / 'in' / 'c' / 'gray.png', random_pixels(16, 16))
    save(tmp_path / 'in' / 'c' / 'large.png', random_pixels(32, 32, 3))
    (tmp_path / 'in' / 'a' / '000.png').write_bytes(b'damaged')
    args = ['--source', tmp_path / 'in', '--dest', out / 'a.zip']
    message = call(*args, status=1)
    for word in ['a/000.png: unreadable', 'c/gray.png: 16x16 grayscale', 'c/large.png: 32x32 RGB', '3 of all 7']:
        assert word in message
    assert_nothing_in(out)
    assert '4 images' in call(*args, '--skip-bad')
    assert len(ImageFolderDataset(out / 'a.zip')) == 4


# ---------------------------------------------------------------------------------------------------------------------
# Images of different shapes: the majority decides

RGB, GRAY, RGBA = (16, 16, 3), (16, 16), (16, 16, 4)


def make_mixed(folder: Path, *shapes: tuple[int, ...]) -> Path:
    """Write 000.png, 001.png, ..., all pixels of which are 0, 1, ..., opaque."""
    for i, shape in enumerate(shapes):
        pixels = np.full(shape, i, np.uint8)
        if len(shape) == 3 and shape[2] == 4:
            pixels[:, :, 3] = 255
        save(folder / f'{i:03d}.png', pixels)
    return folder


def kept(dest: Path) -> list[int]:
    """Return which images of `make_mixed` are in a dataset."""
    return [int(pixels.flat[0]) for pixels in read(dest)[0]]


@pytest.mark.parametrize(
    'shapes, options, expected',
    [
        ([GRAY, *[RGB] * 9], [], range(1, 10)),
        ([RGB, *[GRAY] * 9], [], range(1, 10)),
        ([*[RGB] * 3, *[GRAY] * 4], [], range(3, 7)),
        ([(32, 32, 3), RGB, RGB], [], [1, 2]),
        ([(16, 32, 3), (32, 16, 3), (32, 16, 3)], [], [1, 2]),
        ([GRAY, GRAY, RGB, RGB], [], [0, 1]),  # of two equally frequent shapes, the first
        ([RGB, GRAY, GRAY, RGB], [], [0, 3]),
        ([GRAY, RGB, RGBA, RGBA], ['--alpha=keep'], [1, 2, 3]),
        ([GRAY, RGB, RGBA, RGBA], [], [1, 2, 3]),
        ([(32, 32, 3), GRAY, RGB], ['--resolution=16x16'], [0, 2]),
        ([(32, 32), *[GRAY] * 2, RGB], ['--channels=rgb'], [1, 2, 3]),
        ([GRAY, *[RGB] * 9], ['--max-images=3'], [1, 2]),
    ],
)
def test_most_images_decide_about_the_shape(tmp_path: Path, out: Path, shapes: list, options: list, expected: list):
    source = make_mixed(tmp_path / 'in', *shapes)
    call('--source', source, '--dest', out / 'a.zip', '--skip-bad', '--workers=1', *options)
    assert kept(out / 'a.zip') == list(expected)


def test_the_majority_is_exact_where_a_sample_of_the_images_is_not(tmp_path: Path, out: Path):
    shapes = [RGB if i % 4 == 0 else GRAY for i in range(60)]  # every fourth image is looked at first
    source = make_mixed(tmp_path / 'in', *shapes)
    write_labels(source, [[f'{i:03d}.png', i] for i in range(60)])
    for workers in (1, 2):
        dest = out / f'{workers}.zip'
        message = call('--source', source, '--dest', dest, '--skip-bad', f'--workers={workers}')
        assert '45 images, 16x16 grayscale' in message and '15 bad ones left out' in message
        assert 'left out: 004.png: 16x16 RGB, but most images are 16x16 grayscale' in message
        assert kept(dest) == labels_of(read(dest)[1]) == [i for i in range(60) if i % 4]
    assert (out / '1.zip').read_bytes() == (out / '2.zip').read_bytes()
    message = call('--source', source, '--dest', out / '3.zip', '--workers=1', status=1)
    assert '15 of all 60 images' in message and '000.png: 16x16 RGB, but most images are 16x16 gray' in message
    assert sorted(path.name for path in out.iterdir()) == ['1.zip', '2.zip']


def test_images_that_cannot_be_used_have_no_vote(tmp_path: Path, out: Path):
    source = make_mixed(tmp_path / 'in', *[(16, 16, 4)] * 5, GRAY, GRAY)
    for i in range(5):
        save(source / f'{i:03d}.png', np.zeros([16, 16, 4], np.uint8))  # transparent
    call('--source', source, '--dest', out / 'a.zip', '--skip-bad', '--workers=1')
    assert kept(out / 'a.zip') == [5, 6]


def test_without_skip_bad_the_minority_is_named(tmp_path: Path, out: Path):
    source = make_mixed(tmp_path / 'in', GRAY, *[RGB] * 200)
    message = call('--source', source, '--dest', out / 'a.zip', '--workers=1', status=1)
    assert '1 of all 201 images cannot be used, such as 000.png: 16x16 grayscale' in message
    assert '--channels=rgb' in message and '--skip-bad' in message
    assert_nothing_in(out)


@pytest.mark.parametrize('alpha', ['refuse', 'keep', 'white'])
@pytest.mark.parametrize('channels', ['rgb', 'gray'])
def test_channels_are_converted(tmp_path: Path, out: Path, alpha: str, channels: str):
    source = make_mixed(tmp_path / 'in', GRAY, RGB, RGBA)
    color = save(source / '003.png', random_pixels(16, 16, 3))
    PIL.Image.fromarray(color).convert('P').save(source / '004.png')
    PIL.Image.fromarray(color).convert('CMYK').save(source / '005.tif')
    PIL.Image.fromarray(color[:, :, 0]).convert('1').save(source / '006.png')
    args = [f'--alpha={alpha}', f'--channels={channels}', '--workers=1']
    call('--source', source, '--dest', out / 'a.zip', *args)
    pixels, _data = read(out / 'a.zip')
    num_channels = (3 if channels == 'rgb' else 1) + (alpha == 'keep')
    assert len(pixels) == 7 and {image.shape for image in pixels} == {
        (16, 16, num_channels) if num_channels > 1 else GRAY
    }
    expected = color if channels == 'rgb' else np.asarray(PIL.Image.fromarray(color).convert('L'))[:, :, None]
    np.testing.assert_array_equal(pixels[3].reshape(16, 16, -1)[:, :, : expected.shape[2]], expected)


def test_channels_of_arrays_are_converted(out: Path):
    call('--source=digits', '--dest', out / 'a.zip', '--max-images=3', '--channels=rgb', '--workers=1')
    assert {image.shape for image in read(out / 'a.zip')[0]} == {(32, 32, 3)}


def test_bad_images_are_listed_in_a_file(tmp_path: Path, out: Path):
    source = make_mixed(tmp_path / 'in', GRAY, RGB, RGB)
    (source / 'a\tü\nb.png').write_bytes(b'damaged')
    (source / os.fsdecode(b'\xff.png')).write_bytes(b'damaged')
    args = ['--source', source, '--dest', out / 'a.zip', '--workers=1', f'--bad-list={tmp_path / "bad.txt"}']
    expected = [
        b'000.png\t16x16 grayscale, but most images are 16x16 RGB',
        'a\\tü\\nb.png\tunreadable (not an image of a known format)'.encode(),
        b'\xff.png\tunreadable (not an image of a known format)',
    ]
    for options, status in [([], 1), (['--skip-bad'], 0)]:
        call(*args, *options, status=status)
        assert (tmp_path / 'bad.txt').read_bytes().splitlines() == expected
        (tmp_path / 'bad.txt').write_text('old')
    for path in source.glob('*.png'):
        path.unlink()
    make_mixed(source, RGB)
    call(*args)
    assert (tmp_path / 'bad.txt').read_bytes() == b''


def test_invalid_bad_lists(tmp_path: Path, out: Path):
    source = make_mixed(tmp_path / 'in', RGB)
    (tmp_path / 'file').write_text('')
    for name, word in [
        ('x.zip', '.txt or .tsv'),
        ('x', '.txt'),
        ('file/x.txt', 'is a file'),
        ('out/a/x.txt', 'inside'),
    ]:
        message = call('--source', source, '--dest', out / 'a', f'--bad-list={tmp_path / name}', status=2)
        assert "'--bad-list'" in message and word in message
    assert_nothing_in(out)


@pytest.mark.parametrize('as_zip', [False, True])
def test_progress_is_estimated_by_bytes(tmp_path: Path, out: Path, as_zip: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('dnnlib.progress.SECONDS_BETWEEN_LINES', 0)
    source = tmp_path / 'in'
    source.mkdir()
    for i, size in enumerate([1, 1, 8]):  # KiB
        (source / f'{i}.png').write_bytes(as_png(random_pixels(16, 16, 3)).ljust(size * 1024, b'\0'))
    if as_zip:
        source = zip_folder(source, tmp_path / 'in.zip')
    message = call('--source', source, '--dest', out / 'a.zip', '--workers=1')
    assert 'Converting: 2 of 10 KiB' in message and '2 of 3 img' in message and '10 of 10 KiB' in message
    message = call('--source=digits', '--dest', out / 'b.zip', '--workers=1', '--max-images=3')
    assert 'Converting: 2 of 3 img' in message  # images of one size


# ---------------------------------------------------------------------------------------------------------------------
# No images, damaged archives


def test_no_image_left(tmp_path: Path, out: Path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'x.png').write_bytes(b'damaged')
    assert 'None of 1 images' in call('--source', tmp_path / 'in', '--dest', out / 'a.zip', '--skip-bad', status=1)
    save(tmp_path / 'in' / 'x.png', random_pixels(16, 16))
    assert '16x16 is smaller than 32x16' in call(
        '--source',
        tmp_path / 'in',
        '--dest',
        out / 'a.zip',
        '--transform=center-crop-wide',
        '--resolution=32x16',
        status=1,
    )
    assert_nothing_in(out)


def test_damaged_entry_of_an_archive(tmp_path: Path, out: Path):
    make_folder(tmp_path / 'in', num=3)
    content = bytearray(zip_folder(tmp_path / 'in', tmp_path / 'in.zip').read_bytes())
    with zipfile.ZipFile(tmp_path / 'in.zip') as archive:
        start = archive.getinfo('a/002.png').header_offset
    content[start + 60 : start + 80] = bytes(20)
    (tmp_path / 'in.zip').write_bytes(content)
    message = call('--source', tmp_path / 'in.zip', '--dest', out / 'a.zip', status=1)
    assert 'a/002.png: unreadable (the archive is damaged here' in message


# ---------------------------------------------------------------------------------------------------------------------
# Invalid options


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_folder(tmp_path / 'in', num=3)
    return tmp_path / 'in'


@pytest.mark.parametrize(
    'options, word',
    [
        (['--resolution=22x22'], "'--resolution': 22x22 is not a supported size"),
        (['--resolution=22x22'], 'nearest are 24x24'),
        (['--resolution=2x2'], 'nearest are 4x4'),
        (['--resolution=80x16'], '2 to 8 times the same power of two'),
        (['--resolution=1280x720'], 'nearest are 1280x768'),
        (['--width=22'], 'nearest are 24x24'),
        (['--width=22'], "'--width'"),
        (['--height=22'], "'--height'"),
        (['--alpha=drop'], '--alpha'),
        (['--resolution=32'], 'expected WxH'),
        (['--resolution=0x0'], 'expected WxH'),
        (['--resolution=16x16', '--width=16'], 'remove --width'),
        (['--transform=center-crop'], '--resolution=WxH'),
        (['--transform=center-crop'], "'--transform': center-crop requires"),
        (['--transform=center-crop', '--width=16'], '--resolution=WxH'),
        (['--transform=center-crop-wide', '--resolution=16x32'], 'may not exceed'),
        (['--transform=center-crop-wide', '--resolution=22x16'], 'nearest are 24x24'),
        (['--transform=crop'], '--transform'),
        (['--resize-filter=cubic'], '--resize-filter'),
        (['--max-images=0'], '--max-images'),
        (['--workers=0'], '--workers'),
        (['--workers=two'], '--workers'),
        (['--sauce=x'], '--sauce'),
    ],
)
def test_invalid_options(images: Path, out: Path, options: list[str], word: str):
    assert word in call('--source', images, '--dest', out / 'a.zip', *options, status=2)
    assert_nothing_in(out)


def test_invalid_sources(tmp_path: Path, out: Path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'notes.txt').write_text('')
    (tmp_path / 'broken.zip').write_bytes(b'PK\3\4 and no more')
    (tmp_path / 'some.tar').write_bytes(b'')
    (tmp_path / 'cifar-10-python.tar.gz').write_bytes(b'\x1f\x8b no')
    (tmp_path / 'x_lmdb').mkdir()
    for name, word in [
        ('gone', 'does not exist'),
        ('empty', 'no images'),
        ('broken.zip', 'not a complete zip'),
        ('some.tar', 'not a supported source'),
        ('cifar-10-python.tar.gz', 'not a complete tar'),
        ('x_lmdb', 'cannot be opened'),
    ]:
        message = call('--source', tmp_path / name, '--dest', out / 'a.zip', status=2)
        assert "'--source'" in message and name in message and word in message
    assert "Missing option '--source'" in call('--dest', out / 'a.zip', status=2)
    assert "Missing option '--dest'" in call('--source=digits', status=2)
    assert_nothing_in(out)


def test_invalid_destinations(images: Path, tmp_path: Path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'x').write_text('precious')
    (tmp_path / 'folder.zip').mkdir()
    (tmp_path / 'file').write_text('precious')
    zip_folder(images, tmp_path / 'in.zip')
    for dest, word in [
        ('full', 'not empty'),
        ('folder.zip', 'is a folder'),
        ('file', 'is a file'),
        ('file/below.zip', 'is not a folder'),
        ('x.tar', 'must end in .zip'),
        ('x.tar.gz', 'must end in .zip'),
        ('in/below', 'inside the source'),
    ]:
        message = call('--source', images, '--dest', tmp_path / dest, status=2)
        assert "'--dest'" in message and dest in message and word in message
    same = tmp_path / '..' / tmp_path.name / 'in.zip'
    message = call('--source', tmp_path / 'in.zip', '--dest', same, status=2)
    assert "'--dest'" in message and 'source itself' in message
    assert (tmp_path / 'full' / 'x').read_text() == (tmp_path / 'file').read_text() == 'precious'


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='the superuser may write anywhere')
def test_unwritable_destination(images: Path, tmp_path: Path):
    (tmp_path / 'locked').mkdir(mode=0o500)
    assert 'not writable' in call('--source', images, '--dest', tmp_path / 'locked' / 'a.zip', status=2)


def test_full_disk_is_one_sentence(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(zipfile.ZipFile, 'writestr', refuse)
    message = call('--source', images, '--dest', out / 'a.zip', '--workers=1', status=1)
    assert message == f'Error: {out / "a.zip"} cannot be written: No space left on device.'
    assert_nothing_in(out)


def test_existing_archive_is_replaced_only_by_success(images: Path, out: Path):
    (out / 'a.zip').write_bytes(b'old')
    (images / 'b' / 'bad.png').write_bytes(b'damaged')
    call('--source', images, '--dest', out / 'a.zip', status=1)
    assert (out / 'a.zip').read_bytes() == b'old'
    call('--source', images, '--dest', out / 'a.zip', '--skip-bad')
    assert len(read(out / 'a.zip')[0]) == 3
    assert [path.name for path in out.iterdir()] == ['a.zip']


@pytest.mark.parametrize('switch', ['--skip-bad', '--skip_bad=1', '--skip-bad=true'])
def test_switches_with_and_without_a_value(images: Path, out: Path, switch: str):
    (images / 'b' / 'bad.png').write_bytes(b'damaged')
    call('--source', images, switch, '--dest', out / 'a.zip')
    call('--source', images, '--skip-bad=0', '--dest', out / 'b.zip', status=1)
    assert '--skip-bad' in call('--source', images, '--skip-bad=perhaps', '--dest', out / 'b.zip', status=2)


# ---------------------------------------------------------------------------------------------------------------------
# Real processes


def make_many(path: Path, num: int) -> Path:
    """Write a zip archive of unordered JPEGs that is large enough for several chunks."""
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(num - 1, -1, -1):
            archive.writestr(f'{i % 3}/{i:05d}.jpg', as_png(random_pixels(8, 8, 3, seed=i), format='jpeg'))
    return path


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, out: Path, run_script):
    source = make_many(tmp_path / 'in.zip', 700)
    for workers in [1, 2, 3]:
        result = run_script(
            'dataset_tool.py',
            '--source',
            source,
            '--dest',
            out / f'{workers}.zip',
            '--resolution=16x16',
            '--subfolders_as_labels',
            '--workers',
            workers,
        )
        assert result.returncode == 0 and '700 images' in result.stdout and result.stderr == ''
    assert (out / '1.zip').read_bytes() == (out / '2.zip').read_bytes() == (out / '3.zip').read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ['1.zip', '2.zip', '3.zip']


def test_errors_of_a_process_are_a_sentence(tmp_path: Path, out: Path, run_script):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'x.png').write_bytes(b'damaged')
    result = run_script('dataset_tool.py', '--source', tmp_path / 'in', '--dest', out / 'a.zip')
    assert result.returncode == 1 and result.stdout == '' and 'Traceback' not in result.stderr
    result = run_script('dataset_tool.py', '--source', tmp_path / 'gone', '--dest', out / 'a.zip')
    assert result.returncode == 2 and result.stdout == '' and 'Traceback' not in result.stderr
    assert_nothing_in(out)


def start_slow_run(source: Path, dest: Path) -> subprocess.Popen:
    """Start a long conversion with two processes and wait until it has started to write."""
    command = [
        sys.executable,
        str(ROOT / 'dataset_tool.py'),
        f'--source={source}',
        f'--dest={dest}',
        '--workers=2',
        '--resolution=1024x1024',
    ]
    process = subprocess.Popen(
        command, cwd=dest.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(dest.parent.glob(f'.{dest.name}.*')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None
    return process


def wait_until_gone(process_group: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process_group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError('worker processes are still there')


@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='signals of Unix')
@pytest.mark.parametrize('kind', ['data.zip', 'data'])
@pytest.mark.parametrize('request_to_end', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_run_leaves_nothing_under_the_name(tmp_path: Path, out: Path, kind: str, request_to_end: signal.Signals):
    source = make_many(tmp_path / 'in.zip', 600)
    process = start_slow_run(source, out / kind)
    if request_to_end == signal.SIGINT:
        os.killpg(process.pid, request_to_end)  # as a terminal does
    else:
        process.send_signal(request_to_end)
    _stdout, stderr = process.communicate(timeout=60)
    assert process.returncode != 0 and 'Traceback' not in stderr
    wait_until_gone(process.pid)
    assert not (out / kind).exists()
    if request_to_end != signal.SIGKILL:
        assert_nothing_in(out)
        return
    [leftover] = out.iterdir()
    message = call('--source', source, '--dest', out / kind, '--max-images=2', '--workers=1')
    assert f'{leftover} is left over from a killed conversion' in message and '2 images' in message
    assert (out / kind).exists()
