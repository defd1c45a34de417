"""dataset_tool.py --check: planted problems are found, ordinary images are not accused, nothing is changed."""

import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps
import pytest
from click.testing import CliRunner

import dataset_tool
from dataset_conversion.checking import similar_images
from dataset_conversion.checking.files import read_findings
from dataset_conversion.checking.similar_images import find_similar
from dataset_conversion.exclusion import exclusion_line, read_exclusions

SIZE = 64


def photo(seed: int, size: int = SIZE) -> PIL.Image.Image:
    """A colorful picture with structures of all sizes, different for each seed."""
    rng = np.random.RandomState(seed)
    pixels = np.zeros([size, size, 3])
    for cells in (4, 8, 16, 32, 64):
        noise = PIL.Image.fromarray(rng.randint(0, 256, [cells, cells, 3], dtype=np.uint8))
        pixels += np.asarray(noise.resize((size, size), PIL.Image.Resampling.BICUBIC), np.float32) / cells
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
    return PIL.Image.fromarray(pixels.astype(np.uint8))


def save(image: PIL.Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def call(*args: object, status: int = 0) -> str:
    result = CliRunner().invoke(dataset_tool.main, [*map(str, args), '--workers=1'])
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, (SystemExit, type(None)))
    return ' '.join(result.output.split())


def check(folder: Path, *args: object) -> tuple[dict[str, set[str]], dict]:
    """Return the names found of each kind, and all findings."""
    call('--check', folder, '--findings', folder.parent / 'found', *args)
    findings = read_findings(folder.parent / 'found' / 'findings.json')
    return {kind['kind']: {name for name, _reason in kind['images']} for kind in findings['kinds']}, findings


def content_of(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photographs in two folders, and every kind of problem."""
    folder = tmp_path_factory.mktemp('photos') / 'in'
    for seed in range(40):
        save(photo(seed), folder / f'{"ab"[seed % 2]}/{seed:02d}.png')
    save(photo(3), folder / 'b/copy.bmp')  # another file with the same pixels
    save(photo(4), folder / 'b/other-label.png')
    small = photo(70, 256).resize((SIZE, SIZE), PIL.Image.Resampling.LANCZOS)
    save(small, folder / 'a/large.png')
    save(small, folder / 'a/large-again.jpg', quality=80)
    save(small.point(lambda value: int(value * 0.8 + 30)), folder / 'a/large-brighter.png')
    save(PIL.Image.new('RGB', (SIZE, SIZE), (200, 30, 30)), folder / 'a/plain.png')
    save(photo(50).convert('L'), folder / 'a/gray.png')
    save(photo(51).convert('L').convert('RGB'), folder / 'a/gray-as-rgb.png')
    gray = np.asarray(PIL.ImageOps.autocontrast(photo(52).convert('L')), np.float32)[:, :, None]
    save(PIL.Image.fromarray((gray * [0.4, 1, 0.4]).astype(np.uint8)), folder / 'a/green.png')
    save(photo(53).filter(PIL.ImageFilter.GaussianBlur(5)), folder / 'a/blurred.png')
    letterbox = photo(54)
    letterbox.paste((0, 0, 0), (0, 0, SIZE, 9))
    letterbox.paste((0, 0, 0), (0, SIZE - 9, SIZE, SIZE))
    save(letterbox, folder / 'b/letterbox.jpg', quality=95)
    frame = PIL.Image.new('RGB', (SIZE, SIZE), 'white')
    frame.paste(photo(55).resize((SIZE - 12, SIZE - 12)), (6, 6))
    save(frame, folder / 'b/frame.png')
    cutout = photo(56).convert('RGBA')
    cutout.paste((0, 0, 0, 0), (0, 0, 20, 20))
    save(cutout, folder / 'b/cutout.png')
    save(PIL.Image.new('RGBA', (SIZE, SIZE), (9, 9, 9, 0)), folder / 'b/invisible.png')
    save(photo(57, 16), folder / 'b/tiny.png')
    (folder / 'b/broken.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing else')
    return folder


EXPECTED = {
    'unreadable': {'b/broken.png'},
    'duplicate': {'b/copy.bmp', 'b/other-label.png'},
    'similar': {'a/large-brighter.png', 'a/large.png'},  # in the order of names, large-again.jpg comes first
    'empty': {'a/plain.png'},
    'transparent': {'b/invisible.png'},
    'cutout': {'b/cutout.png'},
    'size': {'b/tiny.png'},
    'gray': {'a/gray.png', 'a/gray-as-rgb.png'},
    'cast': {'a/green.png'},
    'blurred': {'a/blurred.png'},
    'border': {'b/letterbox.jpg', 'b/frame.png'},
}


def test_planted_problems_are_found_and_nothing_else(photos: Path):
    before = content_of(photos)
    found, findings = check(photos, '--subfolders-as-labels')
    assert found == EXPECTED
    assert findings['num_images'] == 56
    assert sum(findings['class_sizes']) == 56
    [reason] = [reason for name, reason in findings['kinds'][1]['images'] if name == 'b/other-label.png']
    assert reason == 'the same as a/04.png, but with another label'
    assert any('an image that has another label: 1' in note for note in findings['notes'])
    assert content_of(photos) == before
    with PIL.Image.open(photos.parent / 'found' / 'contact-sheet.png') as sheet:
        assert sheet.width > 1000 and sheet.height > len(EXPECTED) * 100


def test_the_list_is_taken_by_a_conversion(photos: Path, tmp_path: Path):
    check(photos)
    exclude = photos.parent / 'found' / 'exclude.txt'
    in_force = set(read_exclusions(exclude))
    certain = ('unreadable', 'duplicate', 'empty', 'transparent')
    assert in_force == set().union(*(EXPECTED[kind] for kind in certain))
    text = exclude.read_text().replace('\n# ', '\n')
    (tmp_path / 'all.txt').write_text(text)
    call('--source', photos, '--dest', tmp_path / 'out', '--exclude', tmp_path / 'all.txt', '--subfolders-as-labels')
    labels = json.loads((tmp_path / 'out' / 'dataset.json').read_text())['labels']
    assert len(labels) == 41  # 40, and one of the large ones
    found, _findings = check(tmp_path / 'out')
    assert found == {}
    assert 'No problems found' in call('--check', tmp_path / 'out', '--findings', tmp_path / 'found-2')


def test_an_excluded_image_is_not_checked(photos: Path, tmp_path: Path):
    (tmp_path / 'list.txt').write_text('b/copy.bmp\tseen\n\n# a comment\nb/broken.png\n')
    found, findings = check(photos, '--exclude', tmp_path / 'list.txt')
    assert found['duplicate'] == {'b/other-label.png'} and 'unreadable' not in found
    assert findings['num_images'] == 54


def test_cut_outs_without_a_background(tmp_path: Path):
    for seed in range(20):
        image = photo(seed).convert('RGBA')
        mask = PIL.Image.new('L', (SIZE, SIZE), 0)
        mask.paste(255, (10 + seed % 5, 10, 50, 50))
        image.putalpha(mask)
        save(image, tmp_path / 'in' / f'{seed}.png')
    save(photo(90).convert('RGBA'), tmp_path / 'in' / 'opaque.png')
    assert check(tmp_path / 'in')[0] == {'opaque': {'opaque.png'}}


def test_balance_of_classes(tmp_path: Path):
    folder = tmp_path / 'in'
    for seed in range(31):
        save(photo(seed), folder / f'{seed}.png')
    labels = [[f'{seed}.png', 0 if seed < 30 else 2] for seed in range(31)]
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels, 'class_names': ['cat', 'dog', 'elk', 'fox']}))
    found, findings = check(folder)
    assert found == {} and findings['class_sizes'] == [30, 0, 1, 0]
    notes = ' '.join(findings['notes'])
    assert 'Classes without images: 1 (dog), 3 (fox).' in notes
    assert 'fewer than 10 images: 2 (elk)' in notes and 'The largest class has 30 images, the smallest 1 image' in notes


def test_names_that_are_no_lines(tmp_path: Path):
    names = ['# a.png', 'tab\there.png', 'line\nend.png', 'é\u202e.png', b'\xe9.png'.decode(errors='surrogateescape')]
    for name in [*names, '0.png']:
        save(photo(1), tmp_path / 'in' / name)
    check(tmp_path / 'in')
    exclude = tmp_path / 'found' / 'exclude.txt'
    assert len(read_exclusions(exclude)) == 5
    call('--source', tmp_path / 'in', '--dest', tmp_path / 'a.zip', '--exclude', exclude)
    assert exclusion_line('a\tb', 'c\nd') == b'a\\tb\tc\\nd\n'


@pytest.mark.parametrize(
    'args, message',
    [
        (['--source', 'in', '--dest', 'a.zip', '--exclude', 'none.txt'], 'No such file'),
        (['--source', 'in', '--dest', 'a.zip', '--exclude', 'wrong.txt'], 'wrong.txt has 1 names that are not in'),
        (['--source', 'in', '--dest', 'a.zip', '--exclude', 'all.txt'], 'excludes all 1 images'),
        (['--source', 'in', '--dest', 'a.zip', '--findings', 'found'], "'--findings': is where --check writes"),
        (['--source', 'in', '--check', 'in'], "'--check': converts nothing: remove --source"),
        (['--check', 'in', '--bad-list', 'a.txt'], 'remove --bad-list'),
        (['--check', 'in', '--findings', 'in/found'], 'is inside the source'),
        (['--check', 'nothing'], "'--check': nothing does not exist"),
        (['--dest', 'a.zip'], "Missing option '--source'"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list, message: str):
    monkeypatch.chdir(tmp_path)
    save(photo(1), Path('in/1.png'))
    Path('wrong.txt').write_text('2.png\n')
    Path('all.txt').write_text('1.png\n')
    before = content_of(tmp_path)
    assert message in call(*args, status=2)
    assert content_of(tmp_path) == before


def test_findings_from_elsewhere(tmp_path: Path):
    path = tmp_path / 'findings.json'
    for content in (b'[]', b'{"data": 1}', b'{"kinds": NaN}', b'[' * 10_000, b'\xff'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='findings.json'):
            read_findings(path)


# ---------------------------------------------------------------------------------------------------------------------
# The search


def test_the_search_agrees_with_comparing_all_pairs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similar_images, '_BLOCK', 7)
    rng = np.random.RandomState(0)
    hashes = rng.randint(0, 2**63, 400, dtype=np.int64).view(np.uint64)
    thumbnails = rng.randint(0, 256, [400, 16, 16, 3], dtype=np.uint8)
    for index in range(200, 300):  # relatives of the first images, up to 10 bits away
        bits = np.uint64(sum(1 << int(bit) for bit in rng.choice(64, index % 11, replace=False)))
        hashes[index] = hashes[index - 200] ^ bits
        thumbnails[index] = np.clip(thumbnails[index - 200] * 0.9 + rng.randint(0, 6), 0, 255)
    found = find_similar(hashes, thumbnails, np.ones(400, bool))
    distances = np.array([[bin(int(a ^ b)).count('1') for b in hashes] for a in hashes])
    for index in range(400):
        expected = index - 200 if 200 <= index < 300 and distances[index, index - 200] <= 7 else index
        assert found.leader[index] == expected
    assert found.is_complete
    monkeypatch.delattr(np, 'bitwise_count', raising=False)  # NumPy 1
    np.testing.assert_array_equal(find_similar(hashes, thumbnails, np.ones(400, bool)).leader, found.leader)


def test_many_images_without_comparing_all():
    rng = np.random.RandomState(0)
    hashes = rng.randint(0, 2**63, 30_000, dtype=np.int64).view(np.uint64)
    thumbnails = rng.randint(0, 256, [30_000, 16, 16, 3], dtype=np.uint8)
    thumbnails[20_000:] = thumbnails[:10_000]
    hashes[20_000:] = hashes[:10_000]
    start = time.monotonic()
    leader = find_similar(hashes, thumbnails, np.ones(30_000, bool)).leader
    assert time.monotonic() - start < 60
    np.testing.assert_array_equal(leader[20_000:], np.arange(10_000))
    np.testing.assert_array_equal(leader[:20_000], np.arange(20_000))


def test_frames_of_a_film_are_one_group():
    rng = np.random.RandomState(0)
    hashes = np.full(20_000, 12345, np.uint64)
    thumbnails = np.repeat(rng.randint(0, 250, [1, 16, 16, 3], dtype=np.uint8), 20_000, axis=0)
    thumbnails[:, 0, 0, 0] = np.arange(20_000) % 5
    start = time.monotonic()
    assert not find_similar(hashes, thumbnails, np.ones(20_000, bool)).leader.any()
    assert time.monotonic() - start < 60


def test_hashes_made_to_collide_end_the_search(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similar_images, 'MAX_CANDIDATES', 10_000)
    thumbnails = np.random.RandomState(0).randint(0, 256, [1000, 16, 16, 3], dtype=np.uint8)
    found = find_similar(np.zeros(1000, np.uint64), thumbnails, np.ones(1000, bool))
    assert not found.is_complete


def test_large_images_take_little_memory(tmp_path: Path):
    picture = photo(1, 64).resize((3000, 2000))
    file = io.BytesIO()
    picture.save(file, 'jpeg')
    for name in ('1.jpg', '2.jpg'):
        (tmp_path / 'in').mkdir(exist_ok=True)
        (tmp_path / 'in' / name).write_bytes(file.getvalue())
    assert check(tmp_path / 'in')[0] == {'duplicate': {'2.jpg'}}
    found, findings = check(tmp_path / 'in', '--max-pixels=1000000')
    assert found == {'unreadable': {'1.jpg', '2.jpg'}}
    assert 'too large' in findings['kinds'][0]['images'][0][1]
