"""Sources that would expand without end, pictures of all sizes, and labels at the edge of what training can hold."""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataset_conversion import array_datasets
from dataset_format import images, labels
from dataset_format.images import BadImage, TooLarge, decode, encode_png, open_image, paste_on_white
from dataset_format.labels import parse_label_file
from dnnlib.errors import InvalidArgument
from generation.projection.targets import find_targets
from tests.bounded_conversions import convert
from training.data.decoding import decode_image
from training.dataset import ImageFolderDataset

MIB = 2**20
SMALL = encode_png(np.zeros([16, 16, 3], np.uint8))


def call(source: Path, out: Path, *args: object, status: int = 0) -> str:
    return convert(source, out / 'out.zip', *args, status=status)


def png_header(width: int, height: int) -> bytes:
    """A PNG without pixels."""
    chunks = [b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0), b'IDAT', b'IEND']
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in chunks
    )


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name.replace('_', '.')).write_bytes(content)
    return path


def label_content(by_name: object, **more: object) -> bytes:
    return json.dumps({'labels': by_name, **more}).encode()


# ---------------------------------------------------------------------------------------------------------------------
# Archives and other containers


def endless_zip(path: Path, name: str) -> Path:
    """An archive that says that an entry has 3 GB."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.png', SMALL)
        archive.writestr(name, b' ' * 1000)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b'PK\x01\x02')
    content[entry + 24 : entry + 28] = struct.pack('<I', 3 * 2**30)
    path.write_bytes(content)
    return path


def test_an_entry_of_3_gigabytes(tmp_path: Path):
    path = endless_zip(tmp_path / 'a.zip', 'b.png')
    message = call(path, tmp_path, status=1)
    assert 'b.png' in message and 'more than 867,108,864 bytes' in message and '--max-pixels' in message
    with pytest.raises(ValueError, match='b.png of .* has 3,221,225,472 bytes, but at most 536,870,912'):
        _ = ImageFolderDataset(path)[1]


def test_labels_of_3_gigabytes(tmp_path: Path):
    path = endless_zip(tmp_path / 'a.zip', 'dataset.json')
    assert 'dataset.json' in call(path, tmp_path, status=2)
    with pytest.raises(ValueError, match='dataset.json of .* has 3,221,225,472 bytes'):
        ImageFolderDataset(path, use_labels=True)
    path = folder(tmp_path / 'in', a_png=SMALL)
    with open(path / 'dataset.json', 'wb') as file:
        file.truncate(3 * 2**30)
    assert 'dataset.json has more than 268435456 bytes' in call(path, tmp_path, status=2)
    with pytest.raises(ValueError, match='dataset.json has more than 536870912 bytes'):
        ImageFolderDataset(path, use_labels=True)


def test_small_labels_that_take_much_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, '_MAX_LISTS', 100)
    monkeypatch.setattr(labels, '_MAX_VALUES', 100)
    for content in (b'{"labels": [' + b'[],' * 99 + b'[]]}', b'{"labels": [' + b'1,' * 101 + b'1]}'):
        with pytest.raises(ValueError, match='but at most 100 in 100 are read'):
            parse_label_file(content, 'dataset.json')


def test_pipes_are_not_waited_for(tmp_path: Path):
    path = folder(tmp_path / 'in', a_png=SMALL)
    os.mkfifo(path / 'b.png')
    os.mkfifo(tmp_path / 'c.zip')
    assert 'not a regular file' in call(path, tmp_path, status=1)
    assert 'not a regular file' in call(tmp_path / 'c.zip', tmp_path, status=2)
    with pytest.raises(ValueError, match='b.png cannot be read: not a regular file'):
        _ = ImageFolderDataset(path)[1]


def test_mnist_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / array_datasets.MNIST_IMAGES
    with gzip.open(tmp_path / array_datasets.MNIST_LABELS, 'wb') as file:
        file.write(b'\0\0\x08\x01' + struct.pack('>I', 1) + b'\0')
    with gzip.open(path, 'wb') as file:
        file.write(b'\0\0\x08\x03' + struct.pack('>III', 4_000_000, 28, 28))
    assert '3,136,000,000 values, but at most 550,000,000' in call(path, tmp_path, status=2)
    with gzip.open(path, 'wb', 1) as file:
        file.write(b'\0\0\x08\x03' + struct.pack('>III', 1, 28, 28))
        for _ in range(16):
            file.write(bytes(8 * MIB))
    assert 'contains more values' in call(path, tmp_path, status=2)


def test_cifar_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(array_datasets, '_MAX_CIFAR10_BYTES', 8 * MIB)
    path = tmp_path / array_datasets.CIFAR10_ARCHIVE
    with tarfile.open(path, 'w:gz') as archive:
        member = tarfile.TarInfo('cifar-10-batches-py/data_batch_1')
        member.size = 64 * MIB
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert 'expands to more than 8,388,608 bytes' in call(path, tmp_path, status=2)
    with tarfile.open(path, 'w:gz', format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo('name')
        member.pax_headers = {'comment': 'x' * MIB}
        archive.addfile(member)
    assert 'data_batch_1' in call(path, tmp_path, status=2)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path: Path):
    path = folder(tmp_path / 'in', a_png=png_header(30000, 30000))
    message = call(path, tmp_path, status=1)
    assert '30000x30000 = 900,000,000 pixels, and the limit is 200,000,000 (see --max-pixels)' in message
    with pytest.raises(ValueError, match='30000x30000 = 900,000,000 pixels, and the limit is 67,108,864; convert'):
        ImageFolderDataset(path)


def test_a_scan_is_within_the_limit():
    assert open_image(png_header(14000, 14000)).size == (14000, 14000)


def test_the_limit_can_be_changed(tmp_path: Path):
    path = folder(tmp_path / 'in', a_png=SMALL)
    assert '16x16 = 256 pixels, and the limit is 255' in call(path, tmp_path, '--max-pixels=255', status=1)
    assert '1 images' in call(path, tmp_path, '--max-pixels=256')
    with pytest.raises(TooLarge):
        decode(png_header(30000, 30000))


@pytest.mark.parametrize('extension, factor', [('gif', 1), ('tif', 1), ('jpg', 1), ('bmp', 1), ('webp', 4), ('jp2', 4)])
def test_limits_of_all_formats(extension: str, factor: int):
    file = io.BytesIO()
    PIL.Image.new('RGB', (20, 10)).save(
        file, {'tif': 'TIFF', 'jpg': 'JPEG', 'jp2': 'JPEG2000'}.get(extension, extension)
    )
    assert decode(file.getvalue(), 200 * factor).size == (20, 10)
    with pytest.raises(TooLarge, match=f'the limit is {(200 * factor - 1) // factor}'):
        decode(file.getvalue(), 200 * factor - 1)


def test_a_gif_whose_picture_is_larger_than_its_screen():
    file = io.BytesIO()
    PIL.Image.new('P', (4, 4)).save(file, 'gif')
    content = bytearray(file.getvalue())
    picture = content.index(b',')
    content[picture + 5 : picture + 9] = struct.pack('<HH', 65535, 65535)
    with pytest.raises(TooLarge, match='more pixels than the limit'):
        decode(bytes(content))


def test_decoders_that_are_not_needed_are_not_used():
    with pytest.raises(BadImage, match='not an image of a known format'):
        decode(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n')


def test_the_limit_of_pillow_is_restored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PIL.Image, 'MAX_IMAGE_PIXELS', 10)
    assert decode(SMALL).size == (16, 16)
    assert images.crop_center(decode(SMALL), 8, 8).size == (8, 8)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_pillow_does_not_warn_of_pictures_within_our_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PIL.Image, 'MAX_IMAGE_PIXELS', 200)  # it warns from here on, and refuses twice as many
    monkeypatch.setattr(images, '_BAND_PIXELS', 300)
    pixels = np.random.RandomState(0).randint(0, 256, [20, 20, 4], dtype=np.uint8)
    for name in ('tiff', 'png', 'webp'):
        for mode in ('RGB', 'RGBA'):
            file = io.BytesIO()
            exif = PIL.Image.Exif()
            exif[0x0112] = 6  # orientation
            PIL.Image.fromarray(pixels).convert(mode).save(file, name, exif=exif, lossless=True)
            picture = decode(file.getvalue())
            assert picture.size == (20, 20) and (mode == 'RGB' or paste_on_white(picture).size == (20, 20))
            assert decode_image(file.getvalue()).shape == (len(mode), 20, 20)


def palette_with_too_many_transparent_colors() -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros([8, 8], np.uint8)).convert('P', palette=PIL.Image.Palette.ADAPTIVE, colors=2).save(
        file, 'png', transparency=b'\0' * 2
    )
    content = file.getvalue()
    start = content.index(b'tRNS') - 4
    data = b'tRNS' + b'\0' * 300
    chunk = struct.pack('>I', 300) + data + struct.pack('>I', zlib.crc32(data))
    end = start + 12 + int.from_bytes(content[start : start + 4], 'big')
    return content[:start] + chunk + content[end:]


def test_transparent_colors_beyond_the_palette(tmp_path: Path):
    content = palette_with_too_many_transparent_colors()
    path = folder(tmp_path / 'in', a_png=content)
    assert 'a.png: unreadable (palette index out of range)' in call(path, tmp_path, status=1)
    with pytest.raises(InvalidArgument, match=r'a\.png: unreadable \(palette index out of range\)'):
        find_targets([str(path / 'a.png')])


def test_long_names_are_shortened_in_messages(tmp_path: Path):
    name = 'x' * 3000
    label = label_content({f'{name}.png': None})
    damaged = io.BytesIO()
    with zipfile.ZipFile(damaged, 'w') as archive:
        archive.writestr(f'{name}.png', SMALL)
    position = damaged.getvalue().index(b'xxx') + 5
    damaged.getbuffer()[position : position + 1] = b'y'
    (tmp_path / 'x.zip').write_bytes(damaged.getvalue())
    with pytest.raises(ValueError) as labels_refused:
        parse_label_file(label, 'dataset.json')
    with pytest.raises(ValueError) as archive_refused:
        ImageFolderDataset(path=str(tmp_path / 'x.zip'))[0]
    message = call(tmp_path / 'x.zip', tmp_path, status=1)
    for text in (str(labels_refused.value), str(archive_refused.value), message):
        assert len(text) < 1200 and 'xxx' in text and '…' in text, text


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_bands_give_the_same_picture(mode: str, monkeypatch: pytest.MonkeyPatch):
    pixels = np.random.RandomState(0).randint(0, 256, [17, 9, len(mode)], dtype=np.uint8)
    whole = paste_on_white(PIL.Image.fromarray(pixels))
    monkeypatch.setattr(images, '_BAND_PIXELS', 20)
    np.testing.assert_array_equal(np.asarray(paste_on_white(PIL.Image.fromarray(pixels))), np.asarray(whole))


def test_results_that_no_network_can_have(tmp_path: Path):
    path = folder(tmp_path / 'in', a_png=SMALL)
    message = call(path, tmp_path, '--resolution=98304x98304', status=2)
    assert "'--resolution'" in message and '9,663,676,416 pixels' in message
    path = folder(tmp_path / 'in', a_png=encode_png(np.zeros([9000, 4], np.uint8)))
    assert '8192x9000 = 73,728,000 pixels' in call(path, tmp_path, '--width=8192', status=1)


# ---------------------------------------------------------------------------------------------------------------------
# Labels


@pytest.mark.parametrize(
    'written, expected',
    [(1.0, 1), (True, 1), (False, 0), ('3', 3), (99_999, 99_999), ([True, 0.5], [1, 0.5]), ([3.4e38], [3.4e38])],
)
def test_labels_as_the_published_reader_takes_them(written: object, expected: object):
    for content in (label_content([['a.png', written]]), label_content({'a.png': written})):
        table = parse_label_file(content, 'dataset.json')
        assert table.by_name == {'a.png': expected}
        assert type(table.by_name['a.png']) is type(expected)


def test_mixed_spellings_reach_training(tmp_path: Path):
    path = folder(tmp_path / 'in', a_png=SMALL, b_png=SMALL, c_png=SMALL)
    (path / 'dataset.json').write_bytes(label_content({'a.png': True, 'b.png': 2.0, 'c.png': '0'}))
    call(path, tmp_path)
    for source in (path, tmp_path / 'out.zip'):
        dataset = ImageFolderDataset(source, use_labels=True)
        assert [int(dataset.get_details(i).raw_label) for i in range(3)] == [1, 2, 0]


@pytest.mark.parametrize('label', [2**63, 10**30, 1e30, 10**9, 100_000, [10**400], [1e39], [-1e39], [0] * 100_001])
def test_labels_beyond_what_training_can_hold(tmp_path: Path, label: object):
    path = folder(tmp_path / 'in', a_png=SMALL, dataset_json=label_content([['a.png', label]]))
    assert 'the label of a.png' in call(path, tmp_path, status=2)
    with pytest.raises(ValueError, match='the label of a.png'):
        ImageFolderDataset(path, use_labels=True)


def test_nested_lists_are_one_sentence(tmp_path: Path):
    nested = b'{"labels": [["a.png", ' + b'[' * 100_000 + b']' * 100_000 + b']]}'
    path = folder(tmp_path / 'in', a_png=SMALL, dataset_json=nested)
    assert 'nested more than' in call(path, tmp_path, status=2)
    with pytest.raises(ValueError, match='nested more than'):
        ImageFolderDataset(path, use_labels=True)


def test_classes_without_images_are_a_warning(tmp_path: Path):
    files = dict(a_png=SMALL, b_png=SMALL)
    path = folder(tmp_path / 'in', **files, dataset_json=label_content([['a.png', 1], ['b.png', 3]]))
    message = call(path, tmp_path)
    assert 'Warning: 2 classes have no image: 0, 2.' in message and '2 classes,' in message
    assert ImageFolderDataset(path, use_labels=True).classes_without_images == [0, 2]
    assert ImageFolderDataset(path).classes_without_images == []

    names = ['ant', 'bee', 'cow', 'dog', 'eel']
    folder(path, dataset_json=label_content([['a.png', 1], ['b.png', 3]], class_names=names))
    assert '3 classes have no image: 0 (ant), 2 (cow), 4 (eel).' in call(path, tmp_path)
    folder(path, dataset_json=label_content([['a.png', 0], ['b.png', 1]]))
    assert 'no image' not in call(path, tmp_path)
    folder(path, dataset_json=label_content([['a.png', [0, 1]], ['b.png', [0, 0]]]))
    assert 'no image' not in call(path, tmp_path)
    assert ImageFolderDataset(path, use_labels=True).classes_without_images == []
