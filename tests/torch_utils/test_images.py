"""Images on their way to files: rounding, PNG, grids, labels, nothing half-written."""

import numpy as np
import PIL.Image
import pytest
import torch

from torch_utils import images


def test_rounding_rule_at_its_edges():
    levels = torch.arange(256)
    exact = (levels - 128) / 127.5  # x at which each level begins
    assert torch.equal(images.to_uint8(exact.double().reshape(1, 1, 16, 16) + 1e-6).flatten().long(), levels)
    below = images.to_uint8(exact.double().reshape(1, 1, 16, 16) - 1e-3).flatten().long()
    assert torch.equal(below, (levels - 1).clamp(min=0))
    values = torch.tensor([-5, -1, -0.999, 0, 0.0039, 0.99, 1, 5])
    expected = [0, 0, 0, 128, 128, 254, 255, 255]
    assert images.to_uint8(values).tolist() == expected and images.to_uint8(values).dtype == torch.uint8


def test_half_precision_is_rounded_like_full_precision():
    x = torch.linspace(-1.1, 1.1, 1001).half()
    assert torch.equal(images.to_uint8(x), images.to_uint8(x.float()))


@pytest.mark.parametrize('shape', [(3, 5, 7), (5, 7, 3), (1, 5, 7), (5, 7, 1), (5, 7)])
def test_png_holds_the_pixels(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images.save_png(pixels, tmp_path / 'new' / 'x.png')
    back = np.asarray(PIL.Image.open(tmp_path / 'new' / 'x.png'))
    expected = pixels.transpose(1, 2, 0) if shape[0] == 3 else pixels.reshape(shape[-2:] if shape[0] == 1 else shape)
    assert np.array_equal(back, expected.reshape(back.shape))
    assert back.ndim == (3 if 3 in shape else 2)


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'x.png'
    images.save_png(np.zeros([4, 4], np.uint8), path)
    before = path.read_bytes()

    def half_a_file(self, f, format):
        f.write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(PIL.Image.Image, 'save', half_a_file)
    with pytest.raises(OSError, match='disk full'):
        images.save_png(np.ones([4, 4], np.uint8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('array, message', [
    (np.zeros([3, 4, 4], np.float32), 'float32'),
    (np.zeros([5, 5, 5], np.uint8), '1 to 4 channels'),
    (np.zeros([2, 3, 4, 4], np.uint8), '1 to 4 channels'),
])  # fmt: skip
def test_what_is_no_image_is_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        images.save_png(array, tmp_path / 'x.png')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('num_channels', [1, 2, 3, 4])
def test_grid_is_in_reading_order(num_channels):
    cells = np.random.default_rng(0).integers(0, 256, [5, num_channels, 2, 4], dtype=np.uint8)
    grid = images.image_grid(cells, (3, 2))
    assert grid.shape == ((4, 12, num_channels) if num_channels > 1 else (4, 12))
    for index, cell in enumerate(cells):
        row, column = divmod(index, 3)
        part = grid[row * 2 : row * 2 + 2, column * 4 : column * 4 + 4]
        assert np.array_equal(part.reshape(2, 4, num_channels), cell.transpose(1, 2, 0))
    assert not grid[2:, 8:].any()


@pytest.mark.parametrize('shape, grid_size, message', [
    ([5, 3, 4, 4], (2, 2), 'too small for 5'),
    ([5, 3, 4, 4], (0, 9), 'too small'),
    ([5, 4, 4], (5, 1), 'needs images of shape'),
])  # fmt: skip
def test_impossible_grids(shape, grid_size, message):
    with pytest.raises(ValueError, match=message):
        images.image_grid(np.zeros(shape, np.uint8), grid_size)


@pytest.mark.parametrize('num_channels', [1, 2, 3, 4])
def test_labels_stand_beside_the_grid(tmp_path, num_channels):
    cells = torch.full([4, num_channels, 32, 32], 77, dtype=torch.uint8)
    images.save_image_grid(cells, tmp_path / 'bare.png', (2, 2))
    images.save_image_grid(cells, tmp_path / 'named.png', (2, 2), row_labels=['airplane', 'dog'],
                           column_labels=['1', 'a name that is much too long'])  # fmt: skip
    bare = np.asarray(PIL.Image.open(tmp_path / 'bare.png').convert('L'))
    named = np.asarray(PIL.Image.open(tmp_path / 'named.png').convert('L'))
    assert bare.shape == (64, 64) and (bare == 77).all()
    height, width = named.shape
    assert height > 64 and width > 64
    assert (named[-64:, -64:] == 77).all()  # labels cover no image
    left, top = width - 64, height - 64
    for margin in (named[top : top + 32, :left], named[top + 32 :, :left], named[:top, left : left + 32]):
        assert margin.min() < 100 and margin.max() == 255  # ink on paper


@pytest.mark.parametrize('num_channels', [1, 2, 3, 4])
def test_png_of_all_channels_comes_back(tmp_path, num_channels):
    picture = np.random.default_rng(0).integers(0, 256, [num_channels, 5, 7], dtype=np.uint8)
    images.save_png(picture, tmp_path / 'x.png')
    read = PIL.Image.open(tmp_path / 'x.png')
    assert read.mode == {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[num_channels]
    assert np.array_equal(images.from_pil(read), picture)


def test_a_grid_of_two_or_four_rows_of_pixels_is_no_alpha(tmp_path):
    cells = np.random.default_rng(0).integers(0, 256, [2, 3, 2, 4], dtype=np.uint8)
    images.save_image_grid(cells, tmp_path / 'x.png', (1, 2))
    assert np.array_equal(images.from_pil(PIL.Image.open(tmp_path / 'x.png')), np.concatenate(cells, axis=1))


@pytest.mark.parametrize('num_channels', [2, 4])
def test_transparent_images_on_white(num_channels):
    pictures = torch.randint(256, [2, num_channels, 4, 4], dtype=torch.uint8)
    pictures[0, -1], pictures[1, -1, 0] = 255, 0
    shown = images.on_white(pictures)
    alpha = pictures[:, -1:].double() / 255
    assert shown.dtype == torch.uint8 and shown.shape == (2, num_channels - 1, 4, 4)
    assert (shown - (pictures[:, :-1] * alpha + 255 * (1 - alpha))).abs().max() <= 0.5 + 1e-4
    assert torch.equal(shown[0], pictures[0, :-1]) and (shown[1, :, 0] == 255).all()
    opaque = torch.randint(256, [2, num_channels - 1, 4, 4], dtype=torch.uint8)
    assert images.on_white(opaque) is opaque


def test_labels_from_a_file_are_printable_and_short(tmp_path):
    cells = np.zeros([1, 1, 32, 32], np.uint8)

    def size(label, where):
        images.save_image_grid(cells, tmp_path / 'x.png', (1, 1), **{where: [label]})
        with PIL.Image.open(tmp_path / 'x.png') as picture:
            return picture.size, picture.tobytes()

    for where in ('row_labels', 'column_labels'):
        assert size('a\x1b\u202eb', where) == size('a??b', where)
        assert size('a\nb', where) == size('a b', where)
    (width, height), _pixels = size('W' * 1_000_000, 'row_labels')
    assert width < 2000 and height < 100
    size('W' * 1_000_000, 'column_labels')


def test_a_label_cut_short_does_not_pass_for_a_shorter_one(tmp_path):
    def picture_with(label):
        images.save_image_grid(np.zeros([1, 1, 32, 32], np.uint8), tmp_path / 'x.png', (1, 1), column_labels=[label])
        return (tmp_path / 'x.png').read_bytes()

    label = '4294967295'
    assert picture_with(label) == picture_with(label + '5')
    assert picture_with(label) not in [picture_with(label[:length]) for length in range(1, 6)]


def test_number_of_labels_must_fit(tmp_path):
    cells = np.zeros([4, 1, 8, 8], np.uint8)
    with pytest.raises(ValueError, match='3 row labels'):
        images.save_image_grid(cells, tmp_path / 'x.png', (2, 2), row_labels=['a', 'b', 'c'])
    with pytest.raises(ValueError, match='1 column labels'):
        images.save_image_grid(cells, tmp_path / 'x.png', (2, 2), column_labels=['a'])
