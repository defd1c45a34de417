"""Decode the images of a dataset: 8-bit grayscale or RGB, optionally with an alpha channel."""

from __future__ import annotations

import numpy as np

from dataset_format.images import (
    PNG_CHANNELS,
    PNG_COLOR_KINDS,
    PNG_HEADER_BYTES,
    PNG_SIGNATURE,
    TooLarge,
    describe_excess,
    open_image,
    pillow_limit,
)
from dataset_format.sizes import MAX_DATASET_PIXELS

try:
    import pyspng
except ImportError:  # optional: Pillow decodes the same pixels, more slowly
    pyspng = None


class ImageError(ValueError):
    """An image that cannot be read; the text is a sentence for the user.

    An error raised in a worker of a data loader arrives as `type(error)(report)`. The report ends with the traceback of
    the worker, which ends with the sentence; only the sentence is kept.
    """

    def __init__(self, text: str):
        super().__init__(text.rpartition(f'{type(self).__module__}.{type(self).__qualname__}: ')[2].strip())


class UnsupportedImage(ValueError):
    """An intact image of a kind that training does not read; the text completes 'NAME is ...'."""


def decode_image(content: bytes) -> np.ndarray:
    """Decode the bytes of an image file.

    Returns:
        uint8 [C, H, W]; C is 1 (grayscale) or 3 (RGB), or 2 or 4 with an alpha channel.

    Raises:
        UnsupportedImage: It is of another kind, or too large to train on. Damaged files raise whatever the decoder
            raises.
    """
    if is_png(content):
        channels, height, width = png_shape(content)
        if pyspng is not None and channels != 2:  # it does not support grayscale with alpha
            return _channels_first(pyspng.load(content))
    try:
        image = open_image(content, MAX_DATASET_PIXELS)
    except TooLarge as error:
        raise UnsupportedImage(str(error)) from error
    with image, pillow_limit(None):
        if image.mode not in ('L', 'LA', 'RGB', 'RGBA'):
            raise UnsupportedImage(f'of mode {image.mode}, not 8-bit grayscale or RGB')
        return _channels_first(np.array(image))


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:  # HW
        return pixels[np.newaxis]  # CHW
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # HWC => CHW


def is_png(content: bytes) -> bool:
    """Return whether the first bytes of a file are those of a PNG, with its whole header."""
    return content.startswith(PNG_SIGNATURE) and len(content) >= PNG_HEADER_BYTES


def png_shape(header: bytes) -> list[int]:
    """Return [C, H, W] from the header of a PNG.

    Raises:
        UnsupportedImage: It is not 8-bit grayscale or RGB, with or without alpha, or too large to train on.
    """
    width, height = int.from_bytes(header[16:20], 'big'), int.from_bytes(header[20:24], 'big')
    bit_depth, color_type = header[24], header[25]
    kind = PNG_COLOR_KINDS.get(color_type, f'of color type {color_type}')
    channels = PNG_CHANNELS.get(color_type)
    if channels is None or bit_depth != 8:
        raise UnsupportedImage(f'{bit_depth}-bit {kind}, not 8-bit grayscale or RGB')
    if width * height > MAX_DATASET_PIXELS:
        raise UnsupportedImage(describe_excess(width, height, MAX_DATASET_PIXELS))
    return [channels, height, width]
