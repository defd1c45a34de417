"""Single images: which files are images, how they are decoded, and how they are stored as uncompressed PNGs."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps

from dnnlib.text import excerpt

IMAGE_EXTENSIONS = frozenset(
    '.avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp'.split()
)
MAX_PIXELS = 200_000_000
"""Default limit of an image's pixels, for sources and targets: memory for 14,000x14,000 of them and a copy."""

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
PNG_HEADER_BYTES = 29  # the signature and the IHDR chunk up to its last field
PNG_COLOR_KINDS = {0: 'grayscale', 2: 'RGB', 3: 'palette', 4: 'grayscale with alpha', 6: 'RGB with alpha'}
CHANNEL_KINDS = {1: 'grayscale', 2: 'grayscale with alpha', 3: 'RGB', 4: 'RGB with alpha'}
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type, except palettes

# Decoders of Pillow that are used. Some of the others run programs (EPS) or expand archives in archives (ICNS).
_FORMATS = (
    'AVIF',
    'BMP',
    'DIB',
    'GIF',
    'JPEG',
    'JPEG2000',
    'PNG',
    'PPM',
    'TIFF',
    'WEBP',
    'TGA',
)  # TGA has no signature
_MEMORY_FACTORS = {'AVIF': 4, 'JPEG2000': 4, 'WEBP': 4}  # of decoders that do not decode line by line
_FILE_BYTES_PER_PIXEL = 4
_FILE_OVERHEAD_BYTES = 2**26  # thumbnails, color profiles and the like
_BAND_PIXELS = 2**22


class BadImage(ValueError):
    """An image that cannot be used; the message completes 'NAME: ...'."""


class TooLarge(BadImage):
    """An image that exceeds a limit; the message ends with that limit, so that a way to raise it can follow."""


def is_image_name(name: str) -> bool:
    """Return whether a file is an image: it has an image extension, and is neither hidden nor a macOS resource fork."""
    if os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS:
        return False
    return not is_hidden_name(name)


def is_hidden_name(name: str) -> bool:
    """Return whether a file, or a folder in which it lies, is hidden or what macOS adds to archives."""
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode the first picture of an image file, in its own mode, rotated as its EXIF data say.

    Args:
        content: Bytes of the file.
        max_pixels: Largest number of pixels that is decoded.

    Raises:
        TooLarge: The picture has more pixels.
        BadImage: The file cannot be decoded.
    """
    try:
        with pillow_limit(None):
            image = open_image(content, max_pixels)
            image.load()
    except TooLarge:
        raise
    except Exception as error:  # decoders raise all kinds of errors for damaged data
        raise BadImage(f'unreadable ({_decoding_error(error, content)})') from error
    return _apply_orientation(image)


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> PIL.ImageFile.ImageFile:
    """Read the header of an image file; the pixels are decoded when they are first used.

    Args:
        content: Bytes of the file.
        max_pixels: Largest number of pixels that is accepted.

    Raises:
        TooLarge: The picture has more pixels.
        Exception: Whatever the decoder raises for damaged headers.
    """
    formats = [name for name in _FORMATS if name in PIL.Image.OPEN or _all_decoders_loaded(name)]
    try:
        # Pillow paints the first picture of an animation while it opens a GIF.
        with pillow_limit(max_pixels if content.startswith(b'GIF8') else None):
            image = PIL.Image.open(io.BytesIO(content), formats=formats)
    except PIL.Image.DecompressionBombError as error:
        raise TooLarge(f'too large: it has more pixels than the limit, {max_pixels:,}') from error
    _check_pixels(image, max_pixels)
    return image


def describe_excess(width: int, height: int, max_pixels: int) -> str:
    """Describe why an image is refused, as the reason of a bad image."""
    return f'too large: {width}x{height} = {width * height:,} pixels, and the limit is {max_pixels:,}'


def max_file_bytes(max_pixels: int = MAX_PIXELS) -> int:
    """Return the largest size of a file that may hold an image of this many pixels; larger files are not read."""
    return _FILE_BYTES_PER_PIXEL * max_pixels + _FILE_OVERHEAD_BYTES


def _all_decoders_loaded(name: str) -> bool:
    """Load all decoders of Pillow, and return whether one of them has this name."""
    PIL.Image.init()
    return name in PIL.Image.OPEN


def _check_pixels(image: PIL.ImageFile.ImageFile, max_pixels: int) -> None:
    num_pixels = image.width * image.height
    factor = _MEMORY_FACTORS.get(image.format or '', 1)
    if num_pixels * factor > max_pixels:
        reason = f' for {image.format} files, which take {factor} times the memory' if factor > 1 else ''
        raise TooLarge(describe_excess(*image.size, max_pixels // factor) + reason)
    # A file can list the same tile any number of times.
    extents = [tile[1] for tile in image.tile if tile[1] is not None]
    if sum((right - left) * (bottom - top) for left, top, right, bottom in extents) > 8 * num_pixels:
        raise ValueError('its tiles overlap')


_limit_lock = threading.RLock()


@contextlib.contextmanager
def pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Replace Pillow's own limit, a global variable, within this context; None removes it."""
    with _limit_lock:
        previous = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses images of twice as many
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', category=PIL.Image.DecompressionBombWarning)
                warnings.simplefilter('ignore', category=UserWarning)  # about odd metadata: thousands in a crafted file
                yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = previous


def _decoding_error(error: Exception, content: bytes) -> str:
    if not content:
        return 'the file is empty'
    if isinstance(error, PIL.UnidentifiedImageError):
        return 'not an image of a known format'
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return excerpt(error) or type(error).__name__


def _apply_orientation(image: PIL.Image.Image) -> PIL.Image.Image:
    if 'exif' not in image.info and image.format != 'TIFF':
        return image
    try:
        with pillow_limit(None):
            PIL.ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # EXIF data are parsed lazily, and damaged ones raise all kinds of errors
        raise BadImage(f'damaged EXIF data ({_one_line(error)})') from error
    return image


def bands_of(image: PIL.Image.Image) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Yield an image as horizontal bands, each with its top, so that what is computed from it takes little memory."""
    height = max(_BAND_PIXELS // image.width, 1)
    if height >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, height):
        with pillow_limit(None):
            band = image.crop((0, top, image.width, min(top + height, image.height)))
        yield top, band


# ---------------------------------------------------------------------------------------------------------------------
# Alpha channels


def convert(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Convert a decoded image to another mode.

    Raises:
        BadImage: What the file says about its colors makes no sense, such as transparent ones beyond its palette.
    """
    try:
        return image.convert(mode)
    except Exception as error:  # some parts of a file are only used here
        raise BadImage(f'unreadable ({_one_line(error)})') from error


def has_alpha(image: PIL.Image.Image) -> bool:
    """Return whether an image has an alpha channel or a transparent color."""
    return image.mode in ('LA', 'La', 'RGBA', 'RGBa', 'PA') or 'transparency' in image.info


def paste_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Composite an image of mode LA or RGBA onto white; the result has mode L or RGB."""
    background = PIL.Image.new(image.mode[:-1], image.size, 'white')
    for top, band in bands_of(image):
        background.paste(band.convert(background.mode), (0, top), mask=band.getchannel('A'))
    return background


def to_pixels(image: PIL.Image.Image) -> np.ndarray:
    """Return the pixels of an image of mode L, RGB, LA or RGBA; fully transparent ones become black.

    Returns:
        uint8 [H, W] for mode L, otherwise uint8 [H, W, C].
    """
    pixels = np.array(image)
    if image.mode in ('LA', 'RGBA'):
        pixels[pixels[:, :, -1] == 0] = 0
    return pixels


# ---------------------------------------------------------------------------------------------------------------------
# Crops


def crop_to_proportions(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Return the largest central part of an image with the proportions width:height."""
    crop_width = min(image.width, round(image.height * width / height))
    crop_height = min(image.height, round(image.width * height / width))
    return crop_center(image, crop_width, crop_height)


def crop_center(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Return the central part of an image with the given size."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if image.size == (width, height):
        return image
    with pillow_limit(None):
        return image.crop((left, top, left + width, top + height))


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels as an uncompressed PNG.

    The stored deflate blocks are written here rather than by a library, so that the bytes depend on nothing but the
    pixels (PNG: ISO/IEC 15948; zlib and deflate: RFC 1950 and 1951).

    Args:
        pixels: uint8 [H, W] or [H, W, C] with C from 2 to 4.
    """
    height, width = pixels.shape[:2]
    color_type = 0 if pixels.ndim == 2 else {2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    rows = np.zeros([height, 1 + pixels[0].size], dtype=np.uint8)  # each row starts with its filter type: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()

    blocks = [b'\x78\x01']  # zlib header: deflate, 32 KiB window, fastest
    for start in range(0, len(raw), 0xFFFF):
        block = raw[start : start + 0xFFFF]
        is_last = start + 0xFFFF >= len(raw)
        blocks += [struct.pack('<BHH', is_last, len(block), len(block) ^ 0xFFFF), block]
    blocks.append(struct.pack('>I', zlib.adler32(raw)))

    header = struct.pack('>IIBBBBB', width, height, 8, color_type, 0, 0, 0)
    return b''.join(
        [PNG_SIGNATURE, _png_chunk(b'IHDR', header), _png_chunk(b'IDAT', b''.join(blocks)), _png_chunk(b'IEND', b'')]
    )


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return b''.join(
        [struct.pack('>I', len(content)), kind, content, struct.pack('>I', zlib.crc32(content, zlib.crc32(kind)))]
    )
