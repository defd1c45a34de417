"""Pictures to project: every kind of file becomes the pixels that a viewer shows; errors name the file."""

import os

import numpy as np
import PIL.Image
import pytest

from dataset_format import images
from dnnlib.errors import InvalidArgument
from generation.projection.targets import find_targets, load_target

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


def pixels_of(path, resolution=4, num_channels=3):
    (target,) = find_targets([str(path)])
    return load_target(target, resolution, num_channels)


def save(image, path, **options):
    image.save(path, **options)
    return path


# (function that makes the picture, file extension, expected color, tolerance in levels)
GRAY_16 = np.full([4, 4], 0x8080, np.uint16)
KINDS = {
    'RGB': (lambda: PIL.Image.new('RGB', (4, 4), RED), 'png', RED, 0),
    'gray': (lambda: PIL.Image.new('L', (4, 4), 77), 'png', (77, 77, 77), 0),
    'bilevel': (lambda: PIL.Image.new('1', (4, 4), 1), 'png', (255, 255, 255), 0),
    'palette': (lambda: PIL.Image.new('RGB', (4, 4), RED).convert('P'), 'gif', RED, 0),
    'CMYK': (lambda: PIL.Image.new('CMYK', (4, 4), (0, 255, 255, 0)), 'tif', RED, 0),
    'CMYK jpeg': (lambda: PIL.Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'jpg', RED, 4),
    'LAB': (lambda: PIL.Image.new('LAB', (4, 4), (255, 128, 128)), 'tif', (255, 255, 255), 3),
    'half transparent': (lambda: PIL.Image.new('RGBA', (4, 4), HALF_RED), 'png', (255, 127, 127), 1),
    'transparent': (lambda: PIL.Image.new('RGBA', (4, 4), (9, 9, 9, 0)), 'webp', (255, 255, 255), 0),
    'half transparent gray': (lambda: PIL.Image.new('LA', (4, 4), (0, 128)), 'png', (127, 127, 127), 1),
    '16 bits': (lambda: PIL.Image.fromarray(GRAY_16), 'png', (128, 128, 128), 0),
    '16 bits tiff': (lambda: PIL.Image.fromarray(GRAY_16), 'tif', (128, 128, 128), 0),
    'PGM of 16 bits': (lambda: PIL.Image.fromarray(GRAY_16), 'pgm', (128, 128, 128), 0),
    'floating point': (lambda: PIL.Image.fromarray(np.full([4, 4], 0.2, np.float32)), 'tif', (51, 51, 51), 0),
    'one pixel': (lambda: PIL.Image.new('RGB', (1, 1), RED), 'png', RED, 0),
    'large': (lambda: PIL.Image.new('RGB', (300, 200), RED), 'png', RED, 0),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kinds_of_pictures(tmp_path, kind):
    make, extension, color, tolerance = KINDS[kind]
    pixels = pixels_of(save(make(), tmp_path / f'picture.{extension}'))
    assert pixels.shape == (3, 4, 4) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.reshape(color, [3, 1, 1])).max() <= tolerance


def test_a_transparent_palette_color_becomes_white(tmp_path):
    image = PIL.Image.new('P', (4, 4), 0)
    image.putpalette([0, 0, 255, *RED])
    image.paste(1, (0, 0, 2, 4))
    pixels = pixels_of(save(image, tmp_path / 'p.png', transparency=0))
    np.testing.assert_array_equal(pixels[:, 0, 0], RED)
    np.testing.assert_array_equal(pixels[:, 0, 3], (255, 255, 255))


def test_the_central_square_is_cropped_and_scaled_by_pillow(tmp_path):
    photo = np.random.RandomState(0).randint(0, 256, [37, 64, 3], dtype=np.uint8)
    pixels = pixels_of(save(PIL.Image.fromarray(photo), tmp_path / 'wide.png'), resolution=16)
    square = PIL.Image.fromarray(photo[:, 13:50])  # 13 columns are cut off on the left, 14 on the right
    expected = np.asarray(square.resize((16, 16), PIL.Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
    tall = save(PIL.Image.fromarray(photo.transpose(1, 0, 2)), tmp_path / 'tall.png')
    difference = pixels_of(tall, resolution=16).astype(int) - pixels.transpose(0, 2, 1)
    assert np.abs(difference).max() <= 4  # Pillow scales, and rounds, one axis after the other


def test_a_picture_of_the_right_size_is_not_changed(tmp_path):
    photo = np.random.RandomState(0).randint(0, 256, [16, 16, 3], dtype=np.uint8)
    pixels = pixels_of(save(PIL.Image.fromarray(photo), tmp_path / 'p.png'), resolution=16)
    np.testing.assert_array_equal(pixels, photo.transpose(2, 0, 1))


def test_exif_orientation_is_applied(tmp_path):
    photo = np.random.RandomState(0).randint(0, 256, [8, 8, 3], dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    path = save(PIL.Image.fromarray(photo), tmp_path / 'p.png', exif=exif)
    np.testing.assert_array_equal(pixels_of(path, resolution=8), np.rot90(photo, -1).transpose(2, 0, 1))


def test_gray_networks(tmp_path):
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for mode in ('L', 'RGB'):
        path = save(PIL.Image.fromarray(shades).convert(mode), tmp_path / f'{mode}.png')
        np.testing.assert_array_equal(pixels_of(path, 16, num_channels=1), shades[np.newaxis])
    photo = np.stack([shades, shades, shades], axis=2)
    photo[3, 5, 2] += 8  # what a lossy format may do to gray
    assert pixels_of(save(PIL.Image.fromarray(photo), tmp_path / 'near.png'), 16, num_channels=1).shape == (1, 16, 16)
    photo[3, 5, 2] += 1
    with pytest.raises(InvalidArgument, match=r'colored\.png contains colors.*convert it'):
        pixels_of(save(PIL.Image.fromarray(photo), tmp_path / 'colored.png'), 16, num_channels=1)


def test_folders_and_files_in_order(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'deeper').mkdir(parents=True)
    for name in ('b.png', 'a.jpg', '.hidden.png', 'deeper/c.png'):
        PIL.Image.new('RGB', (4, 4)).save(folder / name)
    (folder / 'notes.txt').write_text('not a picture')
    PIL.Image.new('RGB', (4, 4), RED).save(tmp_path / 'z.png')
    targets = find_targets([str(tmp_path / 'z.png'), str(folder)])
    assert [(target.name, target.is_colored) for target in targets] == [('z', True), ('a', False), ('b', False)]


def test_a_name_of_dots_does_not_leave_the_folder(tmp_path):
    path = tmp_path / '...png'
    PIL.Image.new('RGB', (4, 4)).save(path, 'png')
    assert find_targets([str(path)])[0].name == '...png'


def damage(path):
    content = save(PIL.Image.effect_noise((64, 64), 50), path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


UNUSABLE = {
    'missing': (lambda path: None, 'No such file'),
    'text': (lambda path: path.write_text('not a picture'), 'not an image'),
    'empty': (lambda path: path.write_bytes(b''), 'file is empty'),
    'truncated': (damage, 'unreadable'),
    'empty folder': (lambda path: path.mkdir(), 'no images'),
    'integers beyond 16 bits': (
        lambda path: PIL.Image.fromarray(np.full([4, 4], 70000, np.int32)).save(path, 'tiff'), 'from 70000 to 70000'),
    'not a number': (
        lambda path: PIL.Image.fromarray(np.full([4, 4], np.nan, np.float32)).save(path, 'tiff'), 'nan'),
}  # fmt: skip


@pytest.mark.parametrize('case', UNUSABLE)
def test_errors_name_unusable_pictures(tmp_path, case):
    make, hint = UNUSABLE[case]
    path = tmp_path / 'target.png'
    make(path)
    with pytest.raises(InvalidArgument) as caught:
        find_targets([str(path)])
    assert caught.value.argument == 'target'
    message = str(caught.value)
    assert 'target.png' in message and hint in message and '\n' not in message


def test_two_pictures_with_the_same_name(tmp_path):
    for name in ('face.png', 'FACE.jpg'):
        PIL.Image.new('RGB', (4, 4)).save(tmp_path / name)
    with pytest.raises(InvalidArgument, match='rename one'):
        find_targets([str(tmp_path / 'face.png'), str(tmp_path / 'FACE.jpg')])


@pytest.mark.parametrize('resolution', [[8, 12], [12, 8], 8])
def test_the_largest_part_with_the_networks_proportions_is_cropped(tmp_path, resolution):
    y, x = np.mgrid[:40, :40]
    picture = PIL.Image.fromarray(np.dstack([x * 6, y * 6, x * 0]).astype(np.uint8))
    height, width = (resolution, resolution) if resolution == 8 else resolution
    pixels = pixels_of(save(picture, tmp_path / 'x.png'), resolution).astype(int)
    assert pixels.shape == (3, height, width)
    for ramp, size in ((pixels[0].mean(axis=0), width), (pixels[1].mean(axis=1), height)):
        step = 240 / max(height, width)  # the same along both axes: nothing is squeezed
        assert np.abs(np.diff(ramp)[1:-1] - step).max() < 2
        assert abs(ramp.mean() - 117) < 4 and len(ramp) == size  # the middle stays in the middle


@pytest.mark.parametrize('num_channels', [2, 4])
def test_alpha_is_kept_for_networks_that_have_it(tmp_path, num_channels):
    pixels = np.random.default_rng(0).integers(1, 256, [4, 4, num_channels], dtype=np.uint8)
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    loaded = pixels_of(save(PIL.Image.fromarray(pixels), tmp_path / 'x.png'), num_channels=num_channels)
    assert loaded.shape == (num_channels, 4, 4) and not loaded[:, 0].any()
    assert np.array_equal(loaded[:, 1:], pixels[1:].transpose(2, 0, 1))
    opaque = save(PIL.Image.fromarray(pixels[:, :, 0]), tmp_path / 'gray.png')
    assert (pixels_of(opaque, num_channels=num_channels)[-1] == 255).all()


def test_pictures_beyond_the_limit_are_refused_by_their_header(tmp_path):
    path = save(PIL.Image.new('RGB', (20, 10)), tmp_path / 'large.png')
    assert load_target(find_targets([str(path)], max_pixels=200)[0], 4, 3).shape == (3, 4, 4)
    with pytest.raises(
        InvalidArgument, match='large.png is too large: 20x10 = 200 pixels, and the limit is 199'
    ) as error:
        find_targets([str(path)], max_pixels=199)
    assert error.value.argument == 'max_pixels'
    with open(path, 'wb') as file:
        file.truncate(2**31)
    with pytest.raises(InvalidArgument, match='large.png has more than 867108864 bytes'):
        find_targets([str(path)])
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidArgument, match='not a regular file'):
        find_targets([str(path)])


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'I;16', 'I;16B', 'I', 'F'])
def test_large_pictures_are_converted_in_bands(tmp_path, mode, monkeypatch):
    pixels = np.random.RandomState(0).randint(0, 256, [17, 9, 4], dtype=np.uint8)
    if mode in ('I;16', 'I;16B', 'I', 'F'):
        wide = pixels[..., 0].astype(np.uint16) * 257
        image = PIL.Image.fromarray(
            wide / np.float32(65535) if mode == 'F' else wide.astype('>u2' if mode == 'I;16B' else wide.dtype)
        )
        image = image.convert('I') if mode == 'I' else image
    else:
        image = PIL.Image.fromarray(pixels).convert(mode)
    path = save(image, tmp_path / 'a.tif')
    whole = find_targets([str(path)])[0]
    expected = load_target(whole, 8, 3)
    monkeypatch.setattr(images, '_BAND_PIXELS', 20)
    assert find_targets([str(path)])[0] == whole and whole.is_colored == (mode in ('RGB', 'RGBA'))
    np.testing.assert_array_equal(load_target(whole, 8, 3), expected)
