"""Parts of the conversion: properties that do not show in the script."""

import io
import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataset_conversion.array_datasets import load_plain_pickle
from dataset_conversion.convert import archive_name, convert_all
from dataset_conversion.loading import load_image
from dataset_conversion.transforms import Transform
from dataset_conversion.writer import open_destination
from dataset_format.images import BadImage, encode_png, is_image_name
from dataset_format.labels import format_label_file, parse_label_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('shape', [(4, 4), (16, 16, 3), (256, 256), (148, 148, 3), (512, 128, 3)])
def test_png_is_lossless_and_not_compressed(shape: tuple[int, ...]):
    pixels = np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)
    content = encode_png(pixels)
    image = PIL.Image.open(io.BytesIO(content))
    image.verify()  # checksums
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(content))), pixels)
    assert pixels.size < len(content) < pixels.size + shape[0] + 100 + pixels.size // 10000
    data_start = content.index(b'IDAT') + 4
    data = content[data_start:-16]
    assert zlib.decompress(data)[1 : 1 + pixels[0].size] == pixels[0].tobytes()


def test_conversion_needs_no_torch():
    code = 'import sys, dataset_tool; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize(
    'name, expected',
    [
        ('a.png', True),
        ('x/y.JPEG', True),
        ('a.webp', True),
        ('a.txt', False),
        ('png', False),
        ('.png', False),
        ('x/.hidden/a.png', False),
        ('__MACOSX/a.png', False),
        ('dataset.json', False),
    ],
)
def test_which_files_are_images(name: str, expected: bool):
    assert is_image_name(name) == expected


def test_archive_names():
    assert [archive_name(i) for i in (0, 999, 1000, 12345678)] == [
        '00000/img00000000.png',
        '00000/img00000999.png',
        '00001/img00001000.png',
        '12345/img12345678.png',
    ]


@pytest.mark.parametrize(
    'named_labels, class_names',
    [(None, None), ([('a.png', 3), ('ü/b.png', 0)], ['ä', 'b', 'c', 'd']), ([('a.png', [0.1, 2.0])], None)],
)
def test_label_file_round_trip(named_labels: list | None, class_names: list[str] | None):
    content = format_label_file(named_labels, class_names)
    assert json.loads(content)['labels'] == (named_labels and [list(entry) for entry in named_labels])
    table = parse_label_file(content, 'dataset.json')
    assert table.by_name == (named_labels and dict(named_labels))
    assert table.class_names == class_names


@pytest.mark.parametrize(
    'payload',
    [
        b'cos\nsystem\n(S"true"\ntR.',
        b'cbuiltins\neval\n(S"1"\ntR.',
        b'\x80\x04\x8c\x05numpy\x8c\x08fromfile\x93.',
        b'\x80\x04\x8c\x16numpy.core.multiarray\x8c\x0cscalar.attr\x93.',
        b'c_codecs\nencode\n(S"abc"\nS"rot13"\ntR.',
    ],
)
def test_unpickler_allows_arrays_only(payload: bytes):
    with pytest.raises(ValueError, match='batch cannot be read'):
        load_plain_pickle(payload, 'batch')


RECONSTRUCT = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R'
ARRAY_OF_POINTERS = RECONSTRUCT + (  # in which NumPy would take the bytes A for addresses of objects
    b'(K\1K\1\x85cnumpy\ndtype\nU\1OK\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89C\x08AAAAAAAAtb'
)


@pytest.mark.parametrize(
    'payload',
    [
        b'\x80\2}U\4data' + ARRAY_OF_POINTERS + b's.',
        b'\x80\2cnumpy\nndarray\n' + ARRAY_OF_POINTERS + b'\x85R.',
        b'\x80\2c_codecs\nencode\nX\1\0\0\0a' + ARRAY_OF_POINTERS + b'\x86R.',
        b'\x80\2cnumpy\nndarray\n(K\1\x85cnumpy\ndtype\nU\1O\x85Rt\x81.',
        b'\x80\2cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.',
    ],
    ids=['object array', 'shape', 'encoding', 'new', 'size'],
)
def test_unpickler_does_not_follow_pointers(payload: bytes, tmp_path: Path):
    """In a process of its own, since Python's unpickler ends it with a segmentation fault."""
    (tmp_path / 'batch').write_bytes(payload)
    code = (
        'import pathlib\nfrom dataset_conversion.array_datasets import load_plain_pickle\n'
        f"try: load_plain_pickle(pathlib.Path({str(tmp_path / 'batch')!r}).read_bytes(), 'batch')\n"
        'except ValueError as error: print(error)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith('batch cannot be read: '), result


@pytest.mark.parametrize('protocol', range(5))
def test_unpickler_reads_arrays_of_all_protocols(protocol: int):
    array = np.arange(300, dtype=np.uint8).reshape(3, 100)
    data = load_plain_pickle(pickle.dumps({'data': array, 'names': ['a'], 'raw': b'\xff\0'}, protocol), 'batch')
    np.testing.assert_array_equal(data['data'], array)
    assert data['names'] == ['a'] and data['raw'] == b'\xff\0'


def test_destination_is_deleted_after_an_exception(tmp_path: Path):
    for name in ['a.zip', 'a']:
        with pytest.raises(RuntimeError), open_destination(tmp_path / name) as writer:
            writer.write('x/y.png', b'content')
            assert not (tmp_path / name).exists()
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []


def test_empty_folder_may_be_filled(tmp_path: Path):
    (tmp_path / 'a').mkdir()
    with open_destination(tmp_path / 'a') as writer:
        writer.write('x/y.png', b'content')
    assert (tmp_path / 'a' / 'x' / 'y.png').read_bytes() == b'content'


READER_MODULE = """
import os
import numpy as np
class Reader:
    def read(self, ticket):
        if ticket == 500:
            os._exit(9)  # as a system short of memory ends processes
        return np.full([4, 4], ticket % 256, dtype=np.uint8)
"""


def test_killed_worker_is_reported(tmp_path: Path):
    """Runs in another process because workers import the module of the reader by name."""
    (tmp_path / 'reader.py').write_text(READER_MODULE)
    (tmp_path / 'go.py').write_text(
        'from reader import Reader\n'
        'from dataset_conversion.convert import convert_all\n'
        'from dataset_conversion.transforms import Transform\n'
        'if __name__ == "__main__":\n'
        '    list(convert_all(Reader(), range(1000), Transform(), workers=2))\n'
    )
    result = subprocess.run(
        [sys.executable, 'go.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
    )
    assert 'ValueError: A worker process was killed' in result.stderr


def test_sources_larger_than_memory_are_not_read_ahead():
    """Results are computed when they are requested."""
    read = []

    class Reader:
        def read(self, ticket: int) -> np.ndarray:
            read.append(ticket)
            return np.zeros([4, 4], np.uint8)

    results = convert_all(Reader(), range(1000), Transform(), workers=1)
    next(results)
    next(results)
    assert max(read) == 1


def test_decoded_pixels_pass_through():
    pixels = np.random.RandomState(0).randint(0, 256, [8, 8, 3], dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(load_image(pixels)), pixels)
    with pytest.raises(BadImage, match='unreadable'):
        load_image(encode_png(pixels)[:-60])
