"""Load images of all kinds as plain 8-bit grayscale or RGB, optionally with an alpha channel."""

from __future__ import annotations

import warnings

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

from dataset_format.images import (
    MAX_PIXELS,
    BadImage,
    TooLarge,
    convert,
    decode,
    has_alpha,
    open_image,
    paste_on_white,
)

ALPHA_RULES = ('refuse', 'keep', 'white')
CHANNEL_RULES = ('keep', 'rgb', 'gray')
CONVERSION_RULES = """\
Images that are not plain 8-bit grayscale or RGB are converted: bilevel images become grayscale; palette, CMYK, YCbCr
and LAB images become RGB; an alpha channel that is opaque everywhere is dropped. Images that are transparent, or have
more than 8 bits per channel, are rejected. The orientation in the EXIF data is applied. Of animations and multi-page
files, the first picture is used. A dataset cannot mix sizes, or grayscale and RGB: what most images are is right, and
the others cannot be used. --channels=rgb converts grayscale images to RGB, --channels=gray the other way round.

With --alpha=keep all images of the dataset have an alpha channel, opaque for images without one; fully transparent
pixels become black. With --alpha=white transparent images are placed on a white background."""

_TIFF_BITS_PER_SAMPLE = 258


def load_image(
    content: bytes | np.ndarray,
    alpha: str = ALPHA_RULES[0],
    channels: str = CHANNEL_RULES[0],
    max_pixels: int = MAX_PIXELS,
) -> PIL.Image.Image:
    """Load an image according to CONVERSION_RULES.

    Args:
        content: Bytes of a file, or decoded uint8 pixels [H, W] or [H, W, 3].
        alpha: One of ALPHA_RULES.
        channels: One of CHANNEL_RULES.
        max_pixels: Largest number of pixels that is decoded.

    Returns:
        An image of mode L or RGB, or with 'keep' LA or RGBA.

    Raises:
        BadImage: The image cannot be used.
    """
    if isinstance(content, np.ndarray):
        image = PIL.Image.fromarray(content)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', category=UserWarning)  # about odd metadata, which does not affect pixels
            image = _to_8_bit_channels(_decode(content, max_pixels), has_deep_channels(content, max_pixels))
    return _apply_channel_rule(_apply_alpha_rule(image, alpha), channels)


def _decode(content: bytes, max_pixels: int) -> PIL.Image.Image:
    try:
        return decode(content, max_pixels)
    except TooLarge as error:
        raise BadImage(f'{error} (see --max-pixels)') from error


def has_deep_channels(content: bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether an intact file has more than 8 bits per channel, according to its header.

    Pillow silently opens many of these as 8-bit RGB, so its modes do not tell.
    """
    image = open_image(content, max_pixels)
    if image.format == 'PNG':
        return content[24] == 16
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,))) > 8
    if image.format == 'PPM' and image.mode == 'RGB':
        arguments = image.tile[0][3]  # of the decoder: the mode, and the largest value unless it is 255
        return isinstance(arguments, tuple) and arguments[1] > 255
    if image.format == 'JPEG2000' and b'ihdr' in content:
        return content[content.index(b'ihdr') + 14] & 0x7F > 7  # the number of bits minus 1
    if image.format == 'AVIF' and b'av1C' in content:
        return content[content.index(b'av1C') + 6] & 0x40 > 0  # the field high_bitdepth
    return False


def _to_8_bit_channels(image: PIL.Image.Image, is_deep: bool) -> PIL.Image.Image:
    """Convert any mode to L, RGB, LA or RGBA."""
    mode = image.mode
    if is_deep or mode.startswith('I') or mode == 'F':
        raise BadImage('more than 8 bits per channel (scale it to 8 bits in the way that suits its content)')
    if mode in ('LA', 'RGBA'):
        return image
    if has_alpha(image):
        return convert(image, 'LA' if mode in ('L', 'La', '1') else 'RGBA')
    if mode in ('L', 'RGB'):
        return image
    if mode == '1':
        return convert(image, 'L')
    if mode in ('P', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'RGBX'):
        return convert(image, 'RGB')
    raise BadImage(f'mode {mode} (only grayscale and color images can be used)')


def _apply_alpha_rule(image: PIL.Image.Image, rule: str) -> PIL.Image.Image:
    """Convert mode L, RGB, LA or RGBA to the first two, or with 'keep' to the last two."""
    is_gray = image.mode in ('L', 'LA')
    if rule == 'keep':
        return image.convert('LA' if is_gray else 'RGBA')
    if image.mode in ('L', 'RGB'):
        return image
    if rule == 'white':
        return paste_on_white(image)
    if np.asarray(image.getchannel('A')).min() < 255:
        raise BadImage('partly transparent (place it on a background of your choice, or see --alpha)')
    return image.convert('L' if is_gray else 'RGB')


def _apply_channel_rule(image: PIL.Image.Image, rule: str) -> PIL.Image.Image:
    """Convert mode L, RGB, LA or RGBA to grayscale or RGB; alpha stays as it is."""
    if rule == 'keep' or image.mode.startswith('RGB' if rule == 'rgb' else 'L'):
        return image
    alpha = 'A' if image.mode.endswith('A') else ''
    return image.convert(('RGB' if rule == 'rgb' else 'L') + alpha)
