"""The npm package of emoji as a source: which images are taken, and packages that are damaged or hostile."""

import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataset_conversion import emoji_package
from tests.bounded_conversions import convert

NAME = 'emoji-datasource-google-16.0.0.tgz'
FOLDER = 'package/img/google/64/'
MIB = 2**20


def png(seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, [64, 64, 4], dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, 'png')
    return file.getvalue()


def entry(short_name: str, category: str, image: str, **more: object) -> dict:
    return {
        'name': short_name.upper(),
        'short_name': short_name,
        'category': category,
        'image': image,
        'has_img_google': True,
        'sort_order': 1,
        **more,
    }


TABLE = [
    entry('hash', 'Symbols', '0023-fe0f-20e3.png'),
    entry('wave', 'People & Body', '1f44b.png', skin_variations={'1F3FB': {'image': '1f44b-1f3fb.png'}}),
    entry('pizza', 'Food & Drink', '1f355.png'),
    entry('+1', 'People & Body', '1f44d.png'),
    entry('skin-tone-2', 'Component', '1f3fb.png'),
    entry('drawn-by-others', 'Flags', '1f1e6.png', has_img_google=False),
]
IMAGES = ['0023-fe0f-20e3.png', '1f44b.png', '1f44b-1f3fb.png', '1f355.png', '1f44d.png', '1f3fb.png']


def members() -> dict[str, bytes]:
    files = {f'{FOLDER}{name}': png(seed) for seed, name in enumerate(IMAGES)}
    sheet = {'package/img/google/sheets/64.png': b'x' * 100_000}
    return {'package/LICENSE': b'MIT', 'package/emoji.json': json.dumps(TABLE).encode(), **sheet, **files}


def write_package(folder: Path, files: dict[str, bytes], more: list[tarfile.TarInfo] | None = None) -> Path:
    path = folder / NAME
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more or []:
            archive.addfile(info)
    return path


def test_emoji_by_category(tmp_path: Path):
    files = members()
    convert(write_package(tmp_path, files), tmp_path / 'a.zip', '--alpha=keep')
    with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        labels = json.loads(archive.read('dataset.json'))
        pixels = [np.asarray(PIL.Image.open(archive.open(name))) for name, _label in labels['labels']]
    assert labels['class_names'] == ['food-drink', 'people-body', 'symbols']
    assert [label for _name, label in labels['labels']] == [0, 1, 1, 2]
    expected = ['1f355.png', '1f44d.png', '1f44b.png', '0023-fe0f-20e3.png']  # pizza, +1, wave, hash
    for found, name in zip(pixels, expected):
        original = np.array(PIL.Image.open(io.BytesIO(files[f'{FOLDER}{name}'])))
        original[original[:, :, 3] == 0] = 0
        np.testing.assert_array_equal(found, original)


def test_the_same_bytes_as_from_folders(tmp_path: Path):
    files = members()
    convert(write_package(tmp_path, files), tmp_path / 'a.zip', '--alpha=white')
    with zipfile.ZipFile(tmp_path / 'folders.zip', 'w') as archive:
        for emoji in TABLE[:4]:
            folder = emoji['category'].lower().replace(' & ', '-')
            archive.writestr(f'{folder}/{emoji["short_name"]}.png', files[f'{FOLDER}{emoji["image"]}'])
    convert(tmp_path / 'folders.zip', tmp_path / 'b.zip', '--alpha=white', '--subfolders-as-labels')
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()


def test_transparent_images_name_the_option(tmp_path: Path):
    assert 'see --alpha' in convert(write_package(tmp_path, members()), tmp_path / 'a.zip', status=1)


def table_with(**changes: object) -> bytes:
    return json.dumps([{**TABLE[0], **changes}, *TABLE[1:]]).encode()


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'package/emoji.json': None}, 'has no package/emoji.json'),
        ({'package/emoji.json': b'[]'}, 'names no image'),
        ({'package/emoji.json': b'{"a": 1}'}, 'must be a list'),
        ({'package/emoji.json': b'[' * 100_000}, 'is not valid JSON'),
        ({'package/emoji.json': b' ' * (17 * MIB)}, 'but at most 16,777,216 are read'),
        ({'package/emoji.json': table_with(image='../../../../etc/passwd')}, 'must be the name of an image'),
        ({'package/emoji.json': table_with(short_name='x' * 200)}, 'short_name'),
        ({'package/emoji.json': table_with(category=3)}, 'category'),
        ({'package/emoji.json': table_with(category='People & Body', short_name='wave')}, 'twice'),
        ({f'{FOLDER}1f355.png': None}, '1f355.png of .* is missing'),
    ],
)
def test_packages_that_are_not_as_expected(tmp_path: Path, changes: dict, message: str):
    files = {name: content for name, content in {**members(), **changes}.items() if content is not None}
    output = convert(write_package(tmp_path, files), tmp_path / 'a.zip', '--alpha=keep', status=2)
    assert re.search(message, output) and NAME in output
    assert not (tmp_path / 'a.zip').exists()


def test_links_are_not_followed(tmp_path: Path):
    files = members()
    secret = tmp_path / 'secret.png'
    secret.write_bytes(files.pop(f'{FOLDER}1f355.png'))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tarfile.TarInfo(f'{FOLDER}1f355.png')
        link.type, link.linkname = kind, str(secret)
        path = write_package(tmp_path, files, [link])
        assert '1f355.png' in convert(path, tmp_path / 'a.zip', '--alpha=keep', status=2)


def test_members_outside_of_the_package_are_ignored(tmp_path: Path):
    files = {'../../outside.png': b'x', '/etc/outside.png': b'x', f'{FOLDER}../../../../../outside.png': b'x'}
    convert(write_package(tmp_path, {**members(), **files}), tmp_path / 'a.zip', '--alpha=keep')
    assert {path.name for path in tmp_path.iterdir()} == {NAME, 'a.zip'}


def test_a_package_that_expands_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emoji_package, '_MAX_PACKAGE_BYTES', 8 * MIB)
    info = tarfile.TarInfo('package/img/google/sheets/64.png')
    info.size = 2**40
    with gzip.open(tmp_path / NAME, 'wb', 1) as file:
        file.write(info.tobuf())
        for _ in range(16):
            file.write(bytes(MIB))
    assert 'expands to more than 8,388,608 bytes' in convert(tmp_path / NAME, tmp_path / 'a.zip', status=2)


def test_too_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emoji_package, '_MAX_EMOJI', 5)
    assert 'more than 5 images' in convert(write_package(tmp_path, members()), tmp_path / 'a.zip', status=2)


def test_a_damaged_package(tmp_path: Path):
    path = write_package(tmp_path, members())
    path.write_bytes(path.read_bytes()[:-30_000])
    assert 'is not a complete tar archive' in convert(path, tmp_path / 'a.zip', status=2)
    path.write_bytes(b'not gzip')
    assert 'is not a complete tar archive' in convert(path, tmp_path / 'a.zip', status=2)
