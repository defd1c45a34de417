"""Datasets for training: shapes, labels, subsets, processes, damaged files; and the order of the sampler."""

import io
import itertools
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from training.data import decoding
from training.data.decoding import ImageError
from training.data.sampler import InfiniteSampler
from training.dataset import ImageFolderDataset


def png(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, options.pop('format', 'png'), **options)
    return file.getvalue()


def palette_png() -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros([16, 16, 3], np.uint8)).convert('P').save(file, 'png')
    return file.getvalue()


def random_images(num: int, size: int = 16, channels: int = 3) -> np.ndarray:
    """uint8 NCHW"""
    return np.random.RandomState(num).randint(0, 256, [num, channels, size, size], dtype=np.uint8)


def name_of(index: int) -> str:
    return f'00000/img{index:08d}.png'


def files_of(images: np.ndarray, labels: list | None = None, **more: object) -> dict[str, bytes]:
    """Return the files of a dataset by name; `labels` has one label per image."""
    files = {
        name_of(i): png(image[0] if len(image) == 1 else image.transpose(1, 2, 0)) for i, image in enumerate(images)
    }
    named = None if labels is None else [[name_of(i), label] for i, label in enumerate(labels)]
    return {**files, 'dataset.json': json.dumps({'labels': named, **more}).encode()}


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write a zip archive or a folder, depending on the suffix."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.fixture(params=['data.zip', 'data'])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


@pytest.fixture(params=['pyspng', 'pillow'])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == 'pillow':
        monkeypatch.setattr(decoding, 'pyspng', None)
    elif decoding.pyspng is None:
        pytest.skip('pyspng is not installed')
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# Images


@pytest.mark.parametrize('channels', [1, 3])
def test_images_and_their_description(dest: Path, decoder: str, channels: int):
    images = random_images(5, 16, channels)
    dataset = ImageFolderDataset(write(dest, files_of(images)))
    assert (dataset.name, len(dataset)) == ('data', 5)
    assert dataset.image_shape == [channels, 16, 16]
    assert (dataset.num_channels, dataset.resolution) == (channels, 16)
    assert dataset.label_shape == [0] and dataset.label_dim == 0 and dataset.class_names is None
    assert not dataset.has_labels and not dataset.has_onehot_labels
    for _round in range(2):  # decoded, then from the cache
        for index, image in enumerate(images):
            shown, label = dataset[index]
            assert shown.dtype == np.uint8 and label.dtype == np.float32 and label.shape == (0,)
            np.testing.assert_array_equal(shown, image)
    dataset.check_shapes()
    dataset.close()
    np.testing.assert_array_equal(dataset[1][0], images[1])


def test_returned_arrays_may_be_modified(dest: Path):
    images = random_images(2)
    dataset = ImageFolderDataset(write(dest, files_of(images, [[0.5], [1.5]])), use_labels=True)
    for _round in range(3):
        image, label = dataset[0]
        np.testing.assert_array_equal(image, images[0])
        assert label == 0.5
        image[:] = 0
        label[:] = 0


def test_jpegs_and_nested_folders_are_read_in_order(dest: Path, decoder: str):
    pixels = random_images(3).transpose(0, 2, 3, 1)  # NHWC
    contents = [png(p, format='jpeg', quality=95) for p in pixels]
    files = {
        'b/x.jpg': contents[2],
        'a/z.JPG': contents[1],
        'a/b/c.jpeg': contents[0],
        'readme.md': b'',
        '__MACOSX/a/._z.jpg': b'',
        'a/.thumb.jpg': b'',
    }
    dataset = ImageFolderDataset(write(dest, files))
    assert [dataset.get_details(i).file_name for i in range(3)] == ['a/b/c.jpeg', 'a/z.JPG', 'b/x.jpg']
    for (image, _label), content in zip(dataset, contents):
        np.testing.assert_array_equal(image, np.asarray(PIL.Image.open(io.BytesIO(content))).transpose(2, 0, 1))


def test_xflip_appends_mirror_images(dest: Path):
    images = random_images(4)
    dataset = ImageFolderDataset(write(dest, files_of(images, [3, 1, 2, 0])), xflip=True, use_labels=True)
    assert len(dataset) == 8
    for index in range(8):
        image, label = dataset[index]
        expected = images[index % 4]
        np.testing.assert_array_equal(image, expected[:, :, ::-1] if index >= 4 else expected)
        assert image.flags.c_contiguous
        assert label.argmax() == [3, 1, 2, 0][index % 4]
        details = dataset.get_details(index)
        assert (details.raw_idx, details.xflip, details.raw_label) == (index % 4, index >= 4, [3, 1, 2, 0][index % 4])


def test_subset_is_drawn_by_seed(dest: Path):
    write(dest, files_of(random_images(20), list(range(20))))

    def shown(**options: object) -> list[int]:
        dataset = ImageFolderDataset(dest, use_labels=True, **options)
        assert dataset.label_dim == 20  # of the whole set, so that networks fit whatever the subset
        return [dataset.get_details(i).raw_idx for i in range(len(dataset))]

    order = np.arange(20)
    np.random.RandomState(7).shuffle(order)  # the published draw
    assert shown(max_size=6, random_seed=7) == sorted(order[:6])
    assert shown(max_size=6, random_seed=8) != shown(max_size=6, random_seed=7)
    assert shown(max_size=6, random_seed=7, xflip=True) == sorted(order[:6]) * 2
    assert shown(max_size=20) == shown(max_size=99) == shown() == list(range(20))


def test_subset_gives_its_own_images_from_the_cache(dest: Path):
    images = random_images(20)
    dataset = ImageFolderDataset(write(dest, files_of(images)), max_size=6)
    for _round in range(2):
        for index in range(6):
            np.testing.assert_array_equal(dataset[index][0], images[dataset.get_details(index).raw_idx])


def test_cache_keeps_images_only_within_its_budget(dest: Path):
    images = random_images(4, 16)  # 3 KiB in all
    write(dest, files_of(images))
    cached, uncached = ImageFolderDataset(dest, cache_mib=3.1 / 1024), ImageFolderDataset(dest, cache_mib=2.9 / 1024)
    _ = cached[2], uncached[2]
    files_of_others = files_of(255 - images)
    if dest.suffix == '.zip':
        cached.close()
        uncached.close()
    write(dest, files_of_others)
    np.testing.assert_array_equal(cached[2][0], images[2])
    np.testing.assert_array_equal(uncached[2][0], 255 - images[2])


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def test_class_labels_become_one_hot(dest: Path):
    write(dest, files_of(random_images(3), [2, 0, 1], class_names=['ant', 'bee', 'cow', 'dog']))
    dataset = ImageFolderDataset(dest, use_labels=True)
    assert dataset.label_shape == [3] and dataset.label_dim == 3 and dataset.has_onehot_labels and dataset.has_labels
    assert dataset.class_names == ['ant', 'bee', 'cow']
    for index, label in enumerate([[0, 0, 1], [1, 0, 0], [0, 1, 0]]):
        assert dataset.get_label(index).dtype == np.float32
        np.testing.assert_array_equal(dataset.get_label(index), label)


@pytest.mark.parametrize('vectors', [[[0, 1], [1, 1], [0, 0]], [[0.5, -2.0], [1e-3, 3], [0, 7.25]]])
def test_vector_labels_stay_as_they_are(dest: Path, vectors: list):
    dataset = ImageFolderDataset(write(dest, files_of(random_images(3), vectors)), use_labels=True)
    assert dataset.label_dim == 2 and dataset.has_labels and not dataset.has_onehot_labels
    for index, vector in enumerate(vectors):
        np.testing.assert_array_equal(dataset[index][1], np.float32(vector))


def test_labels_are_ignored_unless_requested(dest: Path):
    files = files_of(random_images(3), [2, 0, 1])
    assert ImageFolderDataset(write(dest, files)).label_dim == 0
    write(dest, {**files, 'dataset.json': b'damaged'})
    assert len(ImageFolderDataset(dest)) == 3


def label_file(labels: object) -> bytes:
    return json.dumps({'labels': labels}).encode()


@pytest.mark.parametrize(
    'content, words',
    [
        (None, ['has no labels', 'no dataset.json', '--cond']),
        (label_file(None), ['has no labels', 'lists none']),
        (label_file([]), ['has no labels', 'lists none']),
        (label_file([[name_of(0), 1]]), ['2 of 3 images', name_of(1)]),
        (label_file([[name_of(i), 1] for i in range(5)]), ['2 labels that match no image', name_of(3), name_of(4)]),
        (label_file([[name_of(0), 1], [name_of(1), [1, 0]], [name_of(2), 1]]), ['different kinds', name_of(1)]),
        (label_file([[name_of(i), -1] for i in range(3)]), ['-1']),
        (b'{"labels": [', ['not valid JSON']),
        (b'{"classes": []}', ['no "labels"']),
    ],
    ids=['no-file', 'null', 'none', 'unlabeled', 'unmatched', 'mixed', 'negative', 'damaged', 'no-key'],
)
def test_labels_that_do_not_match(dest: Path, content: bytes | None, words: list[str]):
    files = files_of(random_images(3))
    del files['dataset.json']
    write(dest, files if content is None else {**files, 'dataset.json': content})
    with pytest.raises(ValueError) as error:
        ImageFolderDataset(dest, use_labels=True)
    for word in [str(dest), *words]:
        assert word in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Damage and misuse


def test_image_of_another_shape_is_named(dest: Path, decoder: str):
    files = files_of(random_images(4))
    files[name_of(2)] = png(np.zeros([32, 32, 3], np.uint8))
    files[name_of(3)] = png(np.zeros([16, 16], np.uint8))
    dataset = ImageFolderDataset(write(dest, files))
    _ = dataset[1]
    with pytest.raises(ValueError, match=f'{name_of(2)} is 32x32 RGB, but the first image is 16x16 RGB'):
        _ = dataset[2]
    seen = []
    with pytest.raises(ValueError, match='2 of 4 images are not 16x16 RGB') as error:
        dataset.check_shapes(progress=lambda done, total: seen.append((done, total)))
    assert f'{name_of(2)} (32x32 RGB), {name_of(3)} (16x16 grayscale)' in str(error.value)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    'content, word',
    [
        (palette_png(), '8-bit palette'),
        (png(np.zeros([16, 16], np.uint16)), '16-bit grayscale'),
        (png(random_images(1)[0].transpose(1, 2, 0))[:400], 'cannot be read as an image'),
        (b'hello', 'cannot be read as an image'),
        (b'', 'cannot be read as an image'),
    ],
    ids=['palette', '16-bit', 'cut', 'text', 'empty'],
)
@pytest.mark.parametrize('position', [0, 1])
def test_unusable_image_is_named(dest: Path, decoder: str, content: bytes, word: str, position: int):
    write(dest, {**files_of(random_images(2)), name_of(position): content})
    with pytest.raises(ValueError) as error:
        _ = ImageFolderDataset(dest)[position]
    for part in [str(dest), name_of(position), word, 'dataset_tool.py']:
        assert part in str(error.value)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_images_of_all_channels_and_proportions(dest: Path, decoder: str, channels: int):
    images = np.random.default_rng(0).integers(0, 256, [2, channels, 16, 24], dtype=np.uint8)
    dataset = ImageFolderDataset(write(dest, files_of(images)), xflip=True)
    assert (dataset.num_channels, dataset.resolution, len(dataset)) == (channels, [16, 24], 4)
    np.testing.assert_array_equal([dataset[index][0] for index in range(2)], images)
    np.testing.assert_array_equal(dataset[2][0], images[0, :, :, ::-1])
    dataset.check_shapes()
    assert ImageFolderDataset(dest, resolution=[16, 24]).resolution == [16, 24]
    with pytest.raises(ValueError, match='is 24x16, but resolution 16x24 is required'):
        ImageFolderDataset(dest, resolution=[24, 16])


def test_required_resolution(dest: Path):
    write(dest, files_of(random_images(2)))
    assert ImageFolderDataset(dest, resolution=16).resolution == 16
    with pytest.raises(ValueError, match='is 16x16, but resolution 32x32 is required'):
        ImageFolderDataset(dest, resolution=32)


@pytest.mark.parametrize('max_size', [0, -1])
def test_max_size_is_positive(dest: Path, max_size: int):
    with pytest.raises(ValueError, match='max_size'):
        ImageFolderDataset(write(dest, files_of(random_images(2))), max_size=max_size)


def test_path_that_is_not_a_dataset(tmp_path: Path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'data.tar').write_bytes(b'')
    (tmp_path / 'cut.zip').write_bytes(write(tmp_path / 'whole.zip', files_of(random_images(9))).read_bytes()[:-100])
    write(tmp_path / 'none.zip', {'dataset.json': b'{"labels": null}'})
    for name, word in [
        ('gone.zip', 'does not exist'),
        ('empty', 'no images'),
        ('none.zip', 'no images'),
        ('data.tar', 'neither a folder nor a .zip'),
        ('cut.zip', 'not a complete zip archive'),
    ]:
        with pytest.raises(ValueError, match=word) as error:
            ImageFolderDataset(tmp_path / name)
        assert name in str(error.value)


def test_damage_inside_an_archive_is_named(tmp_path: Path):
    path = write(tmp_path / 'data.zip', files_of(random_images(3)))
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name_of(1)).header_offset
    content = bytearray(path.read_bytes())
    content[start + 200 : start + 220] = bytes(20)
    path.write_bytes(content)
    dataset = ImageFolderDataset(path)
    _ = dataset[0], dataset[2]
    with pytest.raises(ValueError, match=f'damaged at {name_of(1)}'):
        _ = dataset[1]


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@pytest.mark.parametrize('start_method', ['fork', 'spawn'])
def test_worker_processes_agree_and_share_what_they_decoded(dest: Path, start_method: str):
    if start_method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f'no {start_method} here')
    images = random_images(40)
    write(dest, files_of(images, list(range(40))))
    dataset = ImageFolderDataset(dest, use_labels=True, xflip=True)
    _ = dataset[0]  # an open archive in this process must not disturb the others
    loader = torch.utils.data.DataLoader(dataset, batch_size=10, num_workers=2, multiprocessing_context=start_method)
    shown = torch.cat([batch for batch, _labels in loader]).numpy()
    np.testing.assert_array_equal(shown, np.concatenate([images, images[:, :, :, ::-1]]))

    if start_method == 'fork' or hasattr(os, 'memfd_create'):
        write(dest, files_of(255 - images))  # a process that decodes again sees other pixels
        np.testing.assert_array_equal(dataset[39][0], images[39])


def test_pickled_copy_reads_the_same(dest: Path):
    images = random_images(3)
    dataset = ImageFolderDataset(write(dest, files_of(images, [0, 2, 1])), use_labels=True, max_size=2)
    copy = pickle.loads(pickle.dumps(dataset))
    for (image, label), (other_image, other_label) in itertools.zip_longest(dataset, copy):
        np.testing.assert_array_equal(image, other_image)
        np.testing.assert_array_equal(label, other_label)


# ---------------------------------------------------------------------------------------------------------------------
# Sampler


def take(count: int, size: int, **options: object) -> list[int]:
    return list(itertools.islice(InfiniteSampler(range(size), **options), count))


def published_order(count: int, size: int, seed: int, window_size: float = 0.5) -> list[int]:
    """The order in which the published implementation shows images, by its formula."""
    random = np.random.RandomState(seed)
    order = np.arange(size)
    random.shuffle(order)
    window = int(np.rint(size * window_size))
    seen = []
    for step in range(count):
        here = step % size
        seen.append(int(order[here]))
        there = (here - random.randint(window)) % size if window >= 2 else here
        order[[here, there]] = order[[there, here]]
    return seen


@pytest.mark.parametrize('size, seed, window_size', [(37, 0, 0.5), (100, 5, 1.0), (8, 1, 0.1), (1, 2, 0.5)])
def test_order_is_the_published_one(size: int, seed: int, window_size: float):
    expected = published_order(9000, size, seed, window_size)
    assert take(9000, size, seed=seed, window_size=window_size) == expected


def test_processes_take_turns():
    whole = take(600, 50, seed=3)
    assert [take(200, 50, seed=3, num_replicas=3, rank=rank) for rank in range(3)] == [whole[r::3] for r in range(3)]


def test_each_round_shows_nearly_everything_in_a_new_order():
    first, second = take(200, 100)[:100], take(200, 100)[100:]
    assert first != second
    assert len(set(first)) > 70 and len(set(second)) > 70 and len(set(first + second)) > 90
    assert take(200, 100, seed=1) != take(200, 100, seed=2)


def test_without_shuffling_the_order_is_plain():
    assert take(7, 3, shuffle=False) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize('start', [1, 49, 5000])
def test_start_continues_where_another_run_stopped(start: int):
    options = dict(seed=4, num_replicas=2, rank=1)
    assert take(100, 50, start=start, **options) == take(start + 100, 50, **options)[start:]


def test_sampler_feeds_a_loader(dest: Path):
    images = random_images(10)
    dataset = ImageFolderDataset(write(dest, files_of(images)))
    loader = torch.utils.data.DataLoader(dataset, sampler=InfiniteSampler(dataset, seed=1), batch_size=6)
    batches = torch.cat([batch for batch, _labels in itertools.islice(loader, 4)]).numpy()
    np.testing.assert_array_equal(batches, images[take(24, 10, seed=1)])


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(rank=2, num_replicas=2), 'rank'),
        (dict(rank=-1), 'rank'),
        (dict(window_size=1.5), 'window_size'),
        (dict(start=-1), 'start'),
    ],
)
def test_sampler_refuses(options: dict, word: str):
    with pytest.raises(ValueError, match=word):
        InfiniteSampler(range(5), **options)
    with pytest.raises(ValueError, match='no images'):
        InfiniteSampler([])


def test_an_error_in_a_worker_process_keeps_only_its_sentence():
    sentence = 'data.zip: a.png cannot be read as an image (cut off); replace or remove it'
    try:
        raise ImageError(sentence)
    except ImageError:
        report = torch._utils.ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(ImageError) as caught:
        report.reraise()
    assert str(ImageError(sentence)) == str(caught.value) == sentence
