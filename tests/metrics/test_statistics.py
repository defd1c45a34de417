"""Draws that belong to images, moments of streams, and the cache of features."""

import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from dnnlib.progress import Progress
from metrics.features import randomness
from metrics.features.cache import ArrayKind, StatisticsCache
from metrics.features.collectors import FeatureCollector, MomentsCollector
from tests import metric_stand_ins as stand_ins
from torch_utils.distributed import World
from training.data.digest import content_sha256
from training.dataset import ImageFolderDataset

ALONE = World(rank=0, size=1, device=torch.device('cpu'))
KEY = {'dataset': 'abc', 'images': 3}


# ---------------------------------------------------------------------------------------------------------------------
# Draws


def test_latents_belong_to_their_images():
    whole = randomness.latents(7, range(20), 8)
    parts = torch.cat([randomness.latents(7, range(13), 8), randomness.latents(7, range(13, 20), 8)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, randomness.latents(8, range(20), 8))
    assert len(np.unique(whole.numpy())) == whole.numel()
    expected = np.random.Generator(np.random.Philox(key=7, counter=[0, 0, randomness.LATENT, 5])).standard_normal(8)
    np.testing.assert_array_equal(whole[5], expected.astype(np.float32))


def test_latents_are_normal():
    z = randomness.latents(0, range(2000), 16)
    assert abs(float(z.mean())) < 0.03 and abs(float(z.std()) - 1) < 0.02
    assert float((z.T @ z / len(z) - torch.eye(16)).abs().max()) < 0.12


def test_the_training_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with randomness.batch_noise(torch.device('cpu'), 0, 64):
        noise = torch.randn(4)
    with randomness.batch_noise(torch.device('cpu'), 0, 64):
        assert torch.equal(torch.randn(4), noise)
    assert torch.equal(torch.randn(4), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Moments and features


@pytest.mark.parametrize('offset', [0, 1e6])
def test_moments_of_batches(offset):
    x = np.random.RandomState(0).randn(100, 5) @ np.random.RandomState(1).randn(5, 5) + offset
    collector = MomentsCollector(ALONE, 5)
    for start, size in ((0, 33), (33, 1), (34, 66)):
        collector.add(torch.from_numpy(x[start : start + size + 2]), [min(size, 100 - start)])  # Two rows do not count.
    moments = collector.finish()
    assert moments.count == 100
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.cov, np.cov(x.T, bias=True), rtol=1e-9, atol=1e-10)


def test_features_of_batches():
    x = torch.randn(10, 3)
    collector = FeatureCollector(ALONE, 10, 3, torch.float16)
    collector.add(x[:6], [6])
    collector.add(x[6:], [4])
    assert np.array_equal(collector.finish(), x.half().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def arrays():
    rng = np.random.RandomState(0)
    return {'count': np.array(3), 'mean': rng.randn(40), 'cov': rng.randn(40, 40)}


EXPECTED = {
    'count': ArrayKind((), 'int64'),
    'mean': ArrayKind((40,), 'float64'),
    'cov': ArrayKind((40, 40), 'float64'),
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def only_file(cache_dir):
    (path,) = (cache_dir / 'gan-metrics').iterdir()
    return path


def test_what_is_saved_is_loaded(cache_dir, capsys):
    assert StatisticsCache().load(KEY, EXPECTED) is None
    StatisticsCache().save(KEY, arrays())
    assert_same(StatisticsCache().load(KEY, EXPECTED), arrays())
    assert StatisticsCache().load({**KEY, 'images': 4}, EXPECTED) is None
    assert only_file(cache_dir).suffix == '.npz'
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut(cache_dir, capsys, share):
    StatisticsCache().save(KEY, arrays())
    path = only_file(cache_dir)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert StatisticsCache().load(KEY, EXPECTED) is None
    notice = capsys.readouterr().err
    assert str(path) in notice and 'computed again' in notice and notice.count('\n') == 1
    StatisticsCache().save(KEY, arrays())
    assert_same(StatisticsCache().load(KEY, EXPECTED), arrays())


def test_every_flipped_byte_is_found_or_harmless(cache_dir):
    StatisticsCache().save(KEY, arrays())
    path = only_file(cache_dir)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 97):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
        found = StatisticsCache().load(KEY, EXPECTED)
        if found is None:
            refused += 1
        else:  # A date in the archive, for example.
            assert_same(found, arrays())
    assert refused > 100


def test_an_entry_under_the_name_of_another(cache_dir, capsys):
    StatisticsCache().save(KEY, arrays())
    path = only_file(cache_dir)
    content = path.read_bytes()
    path.unlink()
    StatisticsCache().save({**KEY, 'images': 4}, arrays())
    only_file(cache_dir).write_bytes(content)
    assert StatisticsCache().load({**KEY, 'images': 4}, EXPECTED) is None
    assert 'belongs to other data' in capsys.readouterr().err


def test_pickles_are_not_opened(cache_dir, capsys):
    StatisticsCache().save(KEY, arrays())
    with open(only_file(cache_dir), 'wb') as file:
        np.savez(file, mean=np.array([{}], dtype=object))
    assert StatisticsCache().load(KEY, EXPECTED) is None
    assert 'cannot be used' in capsys.readouterr().err


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'mean': None}, 'other shapes or types'),
        ({'mean': np.zeros(41)}, 'other shapes or types'),
        ({'mean': np.zeros(40, np.float32)}, 'other shapes or types'),
        ({'count': np.array([3, 3])}, 'other shapes or types'),
        ({'count': np.array('3')}, 'other shapes or types'),
        ({'more': np.zeros(3)}, 'other shapes or types'),
        ({'more': np.zeros(10**6)}, 'at most 1,048,576 are read'),
    ],
)
def test_arrays_of_another_kind_with_the_right_key_and_digest(cache_dir, capsys, change, reason):
    changed = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    StatisticsCache().save(KEY, changed)
    assert StatisticsCache().load(KEY, EXPECTED) is None
    assert reason in capsys.readouterr().err


def test_a_small_file_that_expands_to_gigabytes(cache_dir, capsys):
    StatisticsCache().save(KEY, arrays())
    with zipfile.ZipFile(only_file(cache_dir), 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('mean.npy', 'w', force_zip64=True) as entry:
            for _ in range(200):
                entry.write(bytes(2**20))
    assert only_file(cache_dir).stat().st_size < 2**20
    tracemalloc.start()
    assert StatisticsCache().load(KEY, EXPECTED) is None
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert 'will be computed again' in capsys.readouterr().err


@pytest.mark.parametrize(
    'poison',
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to('/dev/zero'),
        lambda path: path.write_bytes(np.lib.format.magic(1, 0) + b'\x88\x13' + b'(' * 5000),
    ],
    ids=['pipe', 'folder', 'device', 'brackets'],
)
def test_an_entry_that_is_something_else(cache_dir, capsys, poison):
    StatisticsCache().save(KEY, arrays())
    path = only_file(cache_dir)
    path.unlink()
    poison(path)
    assert StatisticsCache().load(KEY, EXPECTED) is None
    assert 'computed again' in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'file'))
    cache = StatisticsCache()
    cache.save(KEY, arrays())
    assert 'cannot be written' in capsys.readouterr().err
    assert_same(cache.load(KEY, EXPECTED), arrays())  # From memory, for the rest of a training.


# ---------------------------------------------------------------------------------------------------------------------
# Digests of datasets


def digest(path):
    dataset = ImageFolderDataset(path)
    try:
        return content_sha256(dataset)
    finally:
        dataset.close()


def make_old(path):
    """As if it had been written a while ago, as far as the user can set times."""
    os.utime(path, (1e9, 1e9))


def test_the_same_content_anywhere(tmp_path, rgb_zip, rgb_images):
    with zipfile.ZipFile(rgb_zip) as archive:
        archive.extractall(tmp_path / 'folder')
    copy = stand_ins.write_zip(tmp_path / 'copy.zip', rgb_images)
    assert digest(rgb_zip) == digest(tmp_path / 'folder') == digest(copy)
    labeled = stand_ins.write_zip(tmp_path / 'labeled.zip', rgb_images, labels=[0] * len(rgb_images))
    assert digest(labeled) != digest(rgb_zip)


@pytest.fixture
def no_clock_tick(monkeypatch):
    """Datasets that a test has just written count as old, so that their digests are kept."""
    monkeypatch.setattr('training.data.digest._CLOCK_TICK_SEC', -1)


def test_a_digest_is_kept_and_not_trusted_after_a_change(tmp_path, rgb_images, no_clock_tick, monkeypatch):
    path = stand_ins.write_zip(tmp_path / 'data.zip', rgb_images)
    make_old(path)
    before = digest(path)
    with monkeypatch.context() as unreadable:
        unreadable.setattr(ImageFolderDataset, 'content_sha256', None)
        assert digest(path) == before  # Without reading the images again.
    size = path.stat().st_size
    changed = rgb_images.copy()
    changed[50, 0, 3, 3] ^= 1
    stand_ins.write_zip(path, changed)
    make_old(path)
    assert path.stat().st_size == size
    assert digest(path) != before


def test_a_folder_with_a_changed_file(tmp_path, rgb_zip, no_clock_tick):
    with zipfile.ZipFile(rgb_zip) as archive:
        archive.extractall(tmp_path / 'folder')
    before = digest(tmp_path / 'folder')
    path = sorted((tmp_path / 'folder').rglob('*.png'))[7]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert digest(tmp_path / 'folder') != before


def test_digests_of_files_just_written_are_not_kept(tmp_path, cache_dir, rgb_images):
    path = stand_ins.write_zip(tmp_path / 'data.zip', rgb_images)
    digest(path)
    assert not list(cache_dir.rglob('*.json'))


def test_a_damaged_memo(tmp_path, cache_dir, rgb_images, no_clock_tick, capsys):
    path = stand_ins.write_zip(tmp_path / 'data.zip', rgb_images)
    before = digest(path)
    (memo,) = (cache_dir / 'gan-metrics').glob('content-*.json')
    for text in ('{', '[]', json.dumps({'fingerprint': 'x', 'content': 'y'}), memo.read_text().replace(before, 'zz')):
        memo.write_text(text)
        assert digest(path) == before
    assert 'is damaged' in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Progress of long steps


def test_lines_from_time_to_time(monkeypatch, capsys):
    clock = iter([0, 10, 40, 40, 40, 50])
    monkeypatch.setattr('dnnlib.progress.time.monotonic', lambda: next(clock))
    with Progress('Features of real images', 400) as progress:
        progress.update(50)  # After 10 seconds: too soon to tell.
        progress.update(100)  # After 40 seconds.
        progress.update(150)
    assert capsys.readouterr().err == 'Features of real images: 100 of 400 img, 2.5 img/s, 2m 00s left\n'


def test_nothing_is_shown_where_nothing_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr('dnnlib.progress.SECONDS_BETWEEN_LINES', 0)
    with Progress('Features', enabled=False) as progress:
        progress.show(3, 4)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'content',
    ['[' * 100_000, '{"fingerprint": "x", "content": 5}', '[]', '{"fingerprint": ["x"], "content": "y"}', None],
    ids=['brackets', 'number', 'list', 'types', 'pipe'],
)
def test_a_poisoned_digest(tmp_path, cache_dir, rgb_images, no_clock_tick, capsys, content):
    path = stand_ins.write_zip(tmp_path / 'data.zip', rgb_images)
    make_old(path)
    before = digest(path)
    (stored,) = (cache_dir / 'gan-metrics').glob('content-*.json')
    stored.unlink()
    if content is None:
        os.mkfifo(stored)
    else:
        stored.write_text(content)
    assert digest(path) == before
    assert f'{stored} is damaged' in capsys.readouterr().err
    assert stored.is_file()
