"""Which files a collection has and what they are called: folders and archives as users make them."""

import io
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import dataset_tool
from dataset_format.images import encode_png
from dataset_format.names import normal_name
from training.dataset import ImageFolderDataset

NFC, NFD = (unicodedata.normalize(form, 'Zoë') for form in ('NFC', 'NFD'))
JUNK = {
    '__MACOSX/photos/._dataset.json': b'\0\5\26\7',
    '__MACOSX/photos/dataset.json': b'{}',
    '__MACOSX/photos/._a.png': b'\0\5\26\7',
    'photos/.DS_Store': b'\0',
    'photos/Thumbs.db': b'\0',
    'photos/._b.png': b'\0',
    'photos/.git/dataset.json': b'{}',
}


def png(value: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.full([8, 8, 3], value, np.uint8)).save(file, 'png')
    return file.getvalue()


def label_file(*entries: tuple[str, object]) -> bytes:
    return json.dumps({'labels': entries}).encode()


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip archive or a folder, depending on the suffix."""
    for name, content in files.items():
        if path.suffix == '.zip':
            with zipfile.ZipFile(path, 'a') as archive:
                archive.writestr(name, content)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.fixture(params=['in.zip', 'in'])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def convert(source: Path, *options: str, status: int = 0) -> tuple[dict[int, object], list[str] | None, str]:
    """Convert a source. Return {pixel value: label}, the names of the classes, and what was printed."""
    dest = source.parent / 'out' / 'a.zip'
    result = CliRunner().invoke(
        dataset_tool.main, [f'--source={source}', f'--dest={dest}', '--workers=1', *options], terminal_width=1000
    )
    assert result.exit_code == status, result.output
    if status:
        return {}, None, result.output
    dataset = ImageFolderDataset(dest, use_labels=json.loads(zipfile.ZipFile(dest).read('dataset.json'))['labels'])
    return by_value(dataset), dataset.class_names, result.output


def by_value(dataset: ImageFolderDataset) -> dict[int, object]:
    details = [dataset.get_details(i) for i in range(len(dataset))]
    found = {int(dataset[i][0][0, 0, 0]): d.raw_label.tolist() for i, d in enumerate(details)}
    assert len(found) == len(dataset)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# A label file that is not at the top


@pytest.mark.parametrize('top', ['photos', 'deep/er/photos'])
def test_labels_below_a_top_folder_are_used(source: Path, top: str):
    labels = label_file(('a.png', 4), ('sub/b.png', 2))
    images = {f'{top}/a.png': png(1), f'{top}/sub/b.png': png(2)}
    write(source, {**JUNK, **images, f'{top}/dataset.json': labels})
    assert convert(source)[0] == {1: 4, 2: 2}
    dataset = ImageFolderDataset(source, use_labels=True)
    assert by_value(dataset) == {1: 4, 2: 2}
    assert [dataset.get_details(i).file_name for i in range(2)] == list(images)


def test_images_outside_the_folder_of_the_labels_are_not_lost(source: Path):
    files = {'photos/a.png': png(1), 'photos/dataset.json': label_file(('a.png', 4)), 'other/b.png': png(2)}
    write(source, files)
    message = convert(source, status=2)[2]
    assert 'photos/dataset.json of' in message and '1 of 2 images (../other/b.png)' in message
    with pytest.raises(ValueError, match='1 of 2 images'):
        ImageFolderDataset(source, use_labels=True)


def test_labels_that_name_the_top_folder_are_an_error(source: Path):
    write(source, {'photos/a.png': png(1), 'photos/dataset.json': label_file(('photos/a.png', 4))})
    assert 'photos/dataset.json of' in convert(source, status=2)[2]


@pytest.mark.parametrize('first', ['', 'photos/'])
def test_two_label_files_are_an_error(source: Path, first: str):
    files = {f'{first}dataset.json': label_file(('a.png', 0)), f'{first}a.png': png(1)}
    write(source, {**files, 'more/dataset.json': label_file(('b.png', 1)), 'more/b.png': png(2)})
    message = convert(source, status=2)[2]
    for word in ["'--source'", source.name, '2 label files', f"'{first}dataset.json'", "'more/dataset.json'"]:
        assert word in message
    with pytest.raises(ValueError, match='2 label files') as error:
        ImageFolderDataset(source, use_labels=True)
    assert str(source) in str(error.value)
    assert len(ImageFolderDataset(source)) == 2  # without labels it does not matter
    assert convert(source, '--subfolders-as-labels', status=0 if first else 2)[1] == (
        ['more', 'photos'] if first else None
    )


@pytest.mark.parametrize('top', ['', 'photos/', 'deep/er/'])
def test_class_folders_below_a_top_folder(source: Path, top: str):
    write(source, {**JUNK, f'{top}cat/1.png': png(1), f'{top}dog/1.png': png(2), f'{top}dog/x/2.png': png(3)})
    assert convert(source, '--subfolders-as-labels')[:2] == ({1: 0, 2: 1, 3: 1}, ['cat', 'dog'])


def test_digest_covers_labels_below_a_top_folder(source: Path):
    write(source, {'photos/a.png': png(1), 'photos/dataset.json': label_file(('a.png', 4))})
    before = ImageFolderDataset(source).content_sha256()
    source = write(source.with_name(f'other-{source.name}'), {'photos/a.png': png(1)})
    write(source, {'photos/dataset.json': label_file(('a.png', 5))})
    assert ImageFolderDataset(source).content_sha256() != before


def test_digests_of_plain_datasets_stay_as_they_were(source: Path):
    names = [f'00000/img{i:08d}.png' for i in range(3)]
    images = {name: encode_png(np.full([8, 8, 3], i, np.uint8)) for i, name in enumerate(names)}
    write(source, {**images, 'dataset.json': label_file(*((name, i) for i, name in enumerate(names)))})
    dataset = ImageFolderDataset(source, use_labels=True)
    assert dataset.content_sha256() == 'd3d789f9eb44f35026aebc9d078af58c0188ab84ef7e8899a9cc8cbffbf0b8e3'
    assert dataset.metadata_sha256() == '8d39be91851ddfcf8b8ea1853e0d68e58f8fb6e6217c00de3d50e2aca3ecb937'


# ---------------------------------------------------------------------------------------------------------------------
# Names in one form


@pytest.mark.parametrize(
    'name, expected',
    [
        ('a/b.png', 'a/b.png'),
        ('a\\b.png', 'a/b.png'),
        ('.\\a\\\\b.png', 'a/b.png'),
        ('./a//b.png', 'a/b.png'),
        ('/a/./b.png', 'a/b.png'),
        ('../b.png', '../b.png'),
        (f'{NFD}/b.png', f'{NFC}/b.png'),
        ('\ud800.png', '\ud800.png'),  # as a name on disk that is not UTF-8 may appear
    ],
)
def test_normal_names(name: str, expected: str):
    assert normal_name(name) == expected
    assert normal_name(expected) is expected


@pytest.mark.parametrize('stored', ['cats\\1.png', f'{NFD}\\{NFD}.png', f'{NFC}/{NFD}.png', 'a/b/c.png'])
@pytest.mark.parametrize('change', [str, lambda name: name.replace('\\', '/'), lambda name: f'./{name}'])
@pytest.mark.parametrize('form', ['NFC', 'NFD'])
def test_labels_match_however_names_are_written(source: Path, stored: str, change: object, form: str):
    labels = label_file((unicodedata.normalize(form, change(stored)), 3), ('other.png', 1))
    write(source, {stored: png(1), 'other.png': png(2), 'dataset.json': labels})
    assert convert(source)[0] == {1: 3, 2: 1}
    assert by_value(ImageFolderDataset(source, use_labels=True)) == {1: 3, 2: 1}


def test_folders_with_backslashes_are_classes(source: Path):
    files = {
        'photos\\': b'',
        f'photos\\{NFD}\\1.png': png(1),
        f'photos/{NFC}/2.png': png(2),
        'photos\\b\\1.png': png(3),
    }
    write(source, {name: content for name, content in files.items() if content or source.suffix == '.zip'})
    assert convert(source, '--subfolders-as-labels')[:2] == ({1: 0, 2: 0, 3: 1}, [NFC, 'b'])


def test_label_file_with_a_backslash(source: Path):
    write(source, {'photos\\a.png': png(1), 'photos\\dataset.json': label_file(('a.png', 4))})
    assert convert(source)[0] == by_value(ImageFolderDataset(source, use_labels=True)) == {1: 4}


def test_names_of_macos_without_the_flag_for_utf8(tmp_path: Path):
    source = write(tmp_path / 'in.zip', {f'{NFD}/1.png': png(1), 'b/1.png': png(2)})
    content = source.read_bytes()
    for mark, at in [(b'PK\3\4', 6), (b'PK\1\2', 8)]:
        start = content.index(mark)  # of the first entry
        content = content[: start + at] + b'\0\0' + content[start + at + 2 :]
    source.write_bytes(content)
    assert 'Zoë' not in zipfile.ZipFile(source).namelist()[0]
    assert convert(source, '--subfolders-as-labels')[:2] == ({1: 0, 2: 1}, [NFC, 'b'])
    assert ImageFolderDataset(source).get_details(0).file_name == f'{NFC}/1.png'


@pytest.mark.parametrize(
    'names', [('a/b.png', 'a\\b.png'), (f'{NFC}.png', f'{NFD}.png'), ('dataset.json', '.\\dataset.json')]
)
def test_two_files_with_one_name_are_an_error(source: Path, names: tuple[str, str]):
    contents = [label_file(('x.png', 0))] * 2 if 'json' in names[0] else [png(1), png(2)]
    write(source, {'x.png': png(0), **dict(zip(names, contents))})
    message = convert(source, status=2)[2]
    assert "'--source'" in message and 'twice' in message and ascii(names[0]) in message and ascii(names[1]) in message
    with pytest.raises(ValueError, match='twice') as error:
        ImageFolderDataset(source)
    assert str(source) in str(error.value)


def test_two_labels_for_one_name_are_an_error(source: Path):
    write(source, {'a/b.png': png(0), 'dataset.json': label_file(('a/b.png', 0), ('a\\b.png', 1))})
    assert 'more than one label for a/b.png' in convert(source, status=2)[2]
    with pytest.raises(ValueError, match='more than one label for a/b.png'):
        ImageFolderDataset(source, use_labels=True)


def test_order_does_not_depend_on_how_names_are_written(tmp_path: Path):
    names = [f'{NFC}.png', 'Zoz.png', 'Zo/x.png', 'Zoea.png']
    one = write(tmp_path / 'one.zip', {name: png(i) for i, name in enumerate(names)})
    written = [unicodedata.normalize('NFD', name).replace('/', '\\') for name in names]
    two = write(tmp_path / 'two.zip', {name: png(i) for i, name in enumerate(written)})
    one, two = ImageFolderDataset(one), ImageFolderDataset(two)
    assert list(by_value(one)) == list(by_value(two)) and one.content_sha256() == two.content_sha256()


# ---------------------------------------------------------------------------------------------------------------------
# Links


def three_images(folder: Path, first: int = 1) -> Path:
    return write(folder, {f'{i}.png': png(i) for i in range(first, first + 3)})


def found(folder: Path) -> list[str]:
    """Return the names of the images, after checking that conversion sees as many."""
    dataset = ImageFolderDataset(folder)
    names = [dataset.get_details(i).file_name for i in range(len(dataset))]
    assert len(convert(folder)[0]) == len(names)
    return names


@pytest.mark.parametrize('target', ['.', '..', '../..', '/', '../in'])
def test_links_that_make_a_loop_end(tmp_path: Path, target: str):
    folder = three_images(tmp_path / 'in')
    (folder / 'self').symlink_to(target)
    assert found(folder) == ['1.png', '2.png', '3.png']


def test_links_from_folder_to_folder_and_back(tmp_path: Path):
    three_images(tmp_path / 'other', 4)
    folder = three_images(tmp_path / 'in' / 'a' / 'b')
    (folder / 'to-other').symlink_to(tmp_path / 'other')
    (folder / 'to-top').symlink_to('../..')
    (tmp_path / 'other' / 'back').symlink_to(folder)
    (tmp_path / 'other' / 'self').symlink_to('../other')
    assert found(tmp_path / 'in') == [f'a/b/{i}.png' for i in (1, 2, 3)] + [f'a/b/to-other/{i}.png' for i in (4, 5, 6)]


def test_two_links_to_a_folder_count_once(tmp_path: Path):
    three_images(tmp_path / 'elsewhere')
    (tmp_path / 'in').mkdir()
    for name in 'ba':
        (tmp_path / 'in' / name).symlink_to(tmp_path / 'elsewhere')
    assert found(tmp_path / 'in') == ['a/1.png', 'a/2.png', 'a/3.png']


def test_a_folder_keeps_its_name_where_a_link_leads_to_it(tmp_path: Path):
    three_images(tmp_path / 'in' / 'z' / 'deep')
    (tmp_path / 'in' / 'a').symlink_to('z')
    (tmp_path / 'in' / 'b').symlink_to('z/deep')
    assert found(tmp_path / 'in') == [f'z/deep/{i}.png' for i in (1, 2, 3)]


def test_links_to_files_are_files(tmp_path: Path):
    folder = three_images(tmp_path / 'in')
    (folder / 'copy.png').symlink_to('1.png')
    os.link(folder / '1.png', folder / 'hard.png')
    (folder / 'loop').symlink_to('loop')
    (folder / 'nowhere.txt').symlink_to('gone')
    dataset = ImageFolderDataset(folder)
    names = [dataset.get_details(i).file_name for i in range(5)]
    assert names == ['1.png', '2.png', '3.png', 'copy.png', 'hard.png']
    assert dataset.fingerprint() == dataset.fingerprint()


def test_a_folder_may_be_a_link_itself(tmp_path: Path):
    three_images(tmp_path / 'real')
    (tmp_path / 'in').symlink_to('real')
    assert found(tmp_path / 'in') == ['1.png', '2.png', '3.png']


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='the superuser may read anything')
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path):
    three_images(tmp_path / 'in' / 'a')
    (tmp_path / 'in' / 'locked').mkdir(mode=0)
    assert 'cannot be listed' in convert(tmp_path / 'in', status=2)[2]
    with pytest.raises(ValueError, match='locked cannot be listed'):
        ImageFolderDataset(tmp_path / 'in')


def test_names_that_are_not_the_utf8_they_claim_to_be(tmp_path: Path):
    source = write(tmp_path / 'in.zip', {'ä.png': png(1)})
    source.write_bytes(source.read_bytes().replace('ä.png'.encode(), b'\xff\xff.png'))
    assert 'not a complete zip archive' in convert(source, status=2)[2]
    with pytest.raises(ValueError, match='not a complete zip archive'):
        ImageFolderDataset(source)
