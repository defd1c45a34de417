"""What is measured of each image: numbers from which the rules of `rules.py` decide, one row of an array per image.

Large images are scaled down first, because blur and borders matter at the size at which networks see them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import scipy.fft

from dataset_conversion.loading import load_image
from dataset_conversion.source_types import Reader
from dataset_format.images import MAX_PIXELS, BadImage, bands_of

THUMBNAIL_SIZE = 16

MEASUREMENTS = np.dtype(
    [
        ('width', np.int32),
        ('height', np.int32),
        ('digest', 'S16'),  # of size, channels and pixels: equal for the same picture, whatever the file
        ('hash', np.uint64),  # perceptual: similar pictures differ in few bits
        ('thumbnail', np.uint8, (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)),
        ('content', np.float32),  # share of the pixels that differ from the most usual color
        ('is_gray', np.bool_),
        ('cast', np.float32, (2,)),  # mean red - green and (red + green) / 2 - blue, relative to the brightness
        ('cast_spread', np.float32),  # standard deviation of these two over the pixels
        ('contrast', np.float32),  # standard deviation of the brightness, in 0…255
        ('sharpness', np.float32),  # of the contours, relative to the contrast
        ('borders', np.float32, (4,)),  # bars of one color at left, right, top, bottom, as share of the side
        ('visible', np.float32),  # share of the pixels that are not fully transparent
        ('max_alpha', np.uint8),
        ('is_opaque', np.bool_),
    ]
)
"""One row per image that can be read."""

_MAX_SIDE = 512  # to which larger images are scaled down
_HASH_SIZE, _HASH_FREQUENCIES = 32, 8
_SAME_COLOR = 12  # largest difference from the usual color, in 0…255
_BAR_MEAN, _BAR_MAX = 4, 32  # mean and largest difference within a bar; compression leaves this much
_OTHER_THAN_BAR = 24  # smallest difference of a pixel that belongs to the picture beside a bar
_GRAY_CHROMA = 10  # largest minus smallest channel of a gray pixel
_VISIBLE_ALPHA = 8
_BACKGROUND = 128  # on which transparent images are measured, so that neither black nor white disappears


@dataclass(frozen=True)
class MeasureOne:
    """Measure an image by its ticket.

    Args:
        reader: Reader of the source.
        max_pixels: Largest number of pixels that is decoded.
    """

    reader: Reader
    max_pixels: int = MAX_PIXELS

    def __call__(self, ticket: Any) -> np.ndarray | str:
        """Return a row of `MEASUREMENTS`, or the reason why the image cannot be used."""
        try:
            image = load_image(self.reader.read(ticket), alpha='keep', max_pixels=self.max_pixels)
            return measure(image)
        except BadImage as bad:
            return str(bad)


def measure(image: PIL.Image.Image) -> np.ndarray:
    """Measure an image of mode LA or RGBA.

    Returns:
        A row of `MEASUREMENTS`, an array of shape [].
    """
    row = np.zeros([], MEASUREMENTS)
    row['width'], row['height'] = image.size
    row['digest'] = _digest(image)
    factor = -(-max(image.size) // _MAX_SIDE)
    if factor > 1:
        image = image.reduce(min(factor, min(image.size)))
    rgba = np.asarray(image.convert('RGBA'))
    alpha = rgba[:, :, 3]
    planes = rgba[:, :, :3].transpose(2, 0, 1).astype(np.float32)  # CHW
    row['max_alpha'], row['is_opaque'] = alpha.max(), alpha.min() == 255
    is_visible = alpha > _VISIBLE_ALPHA
    row['visible'] = is_visible.mean()
    if not row['is_opaque']:
        planes -= _BACKGROUND
        planes *= alpha.astype(np.float32) / 255
        planes += _BACKGROUND
    gray = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), planes, axes=1)  # Rec. 601; HW
    row['hash'] = _perceptual_hash(gray)
    row['thumbnail'] = _thumbnail(planes)
    usual_color = np.median(planes.reshape(3, -1), axis=1)[:, None, None]
    row['content'] = (np.abs(planes - usual_color).max(axis=0) > _SAME_COLOR).mean()
    row['is_gray'], row['cast'], row['cast_spread'] = _color(planes[:, is_visible], gray[is_visible])
    row['contrast'] = gray.std()
    row['sharpness'] = _sharpness(gray)
    row['borders'] = _borders(planes) if row['is_opaque'] else 0
    return row


def _digest(image: PIL.Image.Image) -> bytes:
    header = f'{image.width}x{image.height} {image.mode}'.encode()
    digest = hashlib.blake2b(header, digest_size=16)
    for _top, band in bands_of(image):
        digest.update(band.tobytes())
    # Arrays of bytes lose zeros at the end.
    return digest.digest()[:-1] + b'.'


def _perceptual_hash(gray: np.ndarray) -> np.uint64:
    """Return which of the lowest frequencies of the picture are above their median, as 64 bits.

    This is the usual hash by a discrete cosine transform of the picture at 32x32. The mean brightness does not count.
    """
    size = (_HASH_SIZE, _HASH_SIZE)
    small = np.asarray(PIL.Image.fromarray(gray).resize(size, PIL.Image.Resampling.BOX))
    frequencies = scipy.fft.dctn(small)[:_HASH_FREQUENCIES, :_HASH_FREQUENCIES].ravel()
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False
    return np.packbits(bits).view(np.uint64)[0]


def _thumbnail(planes: np.ndarray) -> np.ndarray:
    pixels = np.clip(np.rint(planes), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), PIL.Image.Resampling.BOX))


def _color(pixels: np.ndarray, gray: np.ndarray) -> tuple[bool, tuple[float, float], float]:
    """Measure the colors of the visible pixels [3, N] of brightness [N].

    A tint multiplies all colors alike, so that color divided by brightness is the same in all bright pixels.

    Returns:
        Whether they are gray; their mean in two opponent colors, relative to the brightness; and the spread of these.
    """
    if not pixels.size or gray.sum() < 1:
        return True, (0, 0), 0
    red, green, blue = pixels
    is_gray = (pixels.max(axis=0) - pixels.min(axis=0) > _GRAY_CHROMA).mean() < 0.01
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    weights = gray / gray.sum()
    mean = opponents.mean(axis=1) / gray.mean()  # the mean of the quotient, weighted by brightness
    deviations = opponents / np.maximum(gray, 1) - mean[:, None]
    spread = float(np.sqrt((np.square(deviations) @ weights).sum()))
    return bool(is_gray), (mean[0], mean[1]), spread


def _sharpness(gray: np.ndarray) -> float:
    """Return the root mean square of the picture's Laplacian relative to its standard deviation.

    Blur lowers it, contrast does not change it. Without contrast it is 0.
    """
    if min(gray.shape) < 3 or gray.std() < 1:
        return 0
    center = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * center
    return float(np.sqrt(np.square(laplacian).mean()) / gray.std())


def _borders(planes: np.ndarray) -> np.ndarray:
    """Return the bars at the sides of a picture [3, H, W] as shares of its width and height: left, right, top, bottom.

    A bar has one color, and ends at a straight line along which the picture itself begins. Objects before a plain
    background end at no such line. Pictures may have bars at all sides: a frame.
    """
    height, width = planes.shape[1:]
    columns, rows = planes.transpose(2, 0, 1), planes.transpose(1, 0, 2)
    left, right, top, bottom = (_bar_width(lines) for lines in (columns, columns[::-1], rows, rows[::-1]))
    if left + right >= width or top + bottom >= height or not left + right + top + bottom:
        return np.zeros(4, np.float32)
    inside = planes[:, top : height - bottom, left : width - right]
    bars = [
        (left, width, inside[:, :, :2], columns[0]),
        (right, width, inside[:, :, -2:], columns[-1]),
        (top, height, inside[:, :2].swapaxes(1, 2), rows[0]),
        (bottom, height, inside[:, -2:].swapaxes(1, 2), rows[-1]),
    ]
    shares = [size / length if size and _begins(line, bar) else 0 for size, length, line, bar in bars]
    return np.array(shares, np.float32)


def _bar_width(lines: np.ndarray) -> int:
    """Return how many of the first lines [N, 3, M] have one color, the same for all."""
    color = np.median(lines[0], axis=1)[:, None]
    is_bar = _has_color(lines[:1], color)
    if is_bar.all():  # most images end here
        is_bar = _has_color(lines, color)
    return len(lines) if is_bar.all() else int(np.argmin(is_bar))


def _has_color(lines: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return which of the lines [N, 3, M] have a color [3, 1] everywhere."""
    difference = np.abs(lines - color)
    return (difference.mean(axis=(1, 2)) <= _BAR_MEAN) & (difference.max(axis=(1, 2)) <= _BAR_MAX)


def _begins(lines: np.ndarray, bar: np.ndarray) -> bool:
    """Return whether a picture begins beside a bar: most pixels of its first two lines differ from the bar's color.

    Args:
        lines: [3, M, 2]; compression blurs the first one.
        bar: [3, M].
    """
    color = np.median(bar, axis=1)[:, None, None]
    differs = np.abs(lines - color).max(axis=(0, 2)) > _OTHER_THAN_BAR
    return bool(differs.mean() > 0.6)
