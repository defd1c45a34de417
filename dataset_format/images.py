"""Single images: which files are images, what becomes of their many kinds, and the uncompressed PNG they end as."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps

IMAGE_EXTENSIONS = frozenset(
    '.avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp'.split()
)
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
PNG_HEADER_BYTES = 29  # the signature and the IHDR chunk up to its last field
PNG_COLOR_KINDS = {0: 'grayscale', 2: 'RGB', 3: 'palette', 4: 'grayscale with alpha', 6: 'RGB with alpha'}
CHANNEL_KINDS = {1: 'grayscale', 2: 'grayscale with alpha', 3: 'RGB', 4: 'RGB with alpha'}
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type; palettes are no plain channels

ALPHA_RULES = ('refuse', 'keep', 'white')
CONVERSION_RULES = """\
What becomes of images that are not plain 8-bit grayscale or RGB: bilevel becomes grayscale; palette, CMYK, YCbCr and
LAB become RGB; an alpha channel that is opaque everywhere is dropped, one that is not is refused; more than 8 bits per
channel are refused. The orientation noted in EXIF data is applied. Of animations and multi-page files the first
picture is taken. Grayscale and RGB do not mix in one dataset.

With --alpha=keep all images of the dataset have an alpha channel instead, opaque where an image has none; what is
fully transparent becomes black. With --alpha=white transparent images are put on white."""


_TIFF_BITS_PER_SAMPLE = 258


class BadImage(ValueError):
    """An image that cannot be used; the text completes 'NAME: ...'."""


def is_image_name(name: str) -> bool:
    """Whether a file is an image: by its extension, and not hidden, nor a macOS resource fork."""
    if os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS:
        return False
    return not any(part.startswith('.') or part == '__MACOSX' for part in name.split('/'))


def load_image(content: bytes | np.ndarray, alpha: str = ALPHA_RULES[0]) -> PIL.Image.Image:
    """Decode a file's bytes, or wrap decoded uint8 pixels [H, W] or [H, W, 3], as an image of mode L or RGB.

    Other kinds of images become one of the two, or BadImage, by CONVERSION_RULES. With `alpha` 'keep' the modes are LA
    and RGBA.
    """
    if isinstance(content, np.ndarray):
        return _apply_alpha_rule(PIL.Image.fromarray(content), alpha)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', category=UserWarning)  # remarks on odd metadata; pixels are not concerned
        return _apply_alpha_rule(_to_8_bit_channels(decode(content), is_deep=has_deep_channels(content)), alpha)


def decode(content: bytes) -> PIL.Image.Image:
    """The first picture in a file's bytes, turned as its EXIF data say, of whichever mode it is. Raises BadImage."""
    try:
        image = PIL.Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:  # decoders raise anything at damaged data
        raise BadImage(f'unreadable ({_one_line(error, content)})') from error
    return _upright(image)


def _one_line(error: Exception, content: bytes) -> str:
    if not content:
        return 'the file is empty'
    if isinstance(error, PIL.UnidentifiedImageError):
        return 'not an image of a known format'
    return ' '.join(str(error).split()) or type(error).__name__


def has_deep_channels(content: bytes) -> bool:
    """Whether an intact file has more than 8 bits per channel by its header.

    Pillow opens many of these as 8-bit RGB without a word, so its modes do not tell.
    """
    image = PIL.Image.open(io.BytesIO(content))
    if image.format == 'PNG':
        return content[24] == 16
    if image.format == 'TIFF':
        return max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,))) > 8
    if image.format == 'PPM' and image.mode == 'RGB':
        arguments = image.tile[0].args  # of the decoder: the mode, and the largest value where it is not 255
        return isinstance(arguments, tuple) and arguments[1] > 255
    if image.format == 'JPEG2000' and b'ihdr' in content:
        return content[content.index(b'ihdr') + 14] & 0x7F > 7  # one less than the bits
    if image.format == 'AVIF' and b'av1C' in content:
        return content[content.index(b'av1C') + 6] & 0x40 > 0  # its field high_bitdepth
    return False


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    if 'exif' not in image.info and image.format != 'TIFF':
        return image
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF blocks are parsed lazily, and damaged ones raise anything
        raise BadImage(f'damaged EXIF data ({_one_line(error, b"exif")})') from error


def _to_8_bit_channels(image: PIL.Image.Image, is_deep: bool) -> PIL.Image.Image:
    """Any mode → L or RGB, LA or RGBA."""
    mode = image.mode
    if is_deep or mode.startswith('I') or mode == 'F':
        raise BadImage('more than 8 bits per channel (scale it to 8 bits in the way that suits its content)')
    if has_alpha(image):
        return image.convert('LA' if mode in ('L', 'LA', 'La', '1') else 'RGBA')
    if mode in ('L', 'RGB'):
        return image
    if mode == '1':
        return image.convert('L')
    if mode in ('P', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'RGBX'):
        return image.convert('RGB')
    raise BadImage(f'mode {mode} (only grayscale and color images can be used)')


def has_alpha(image: PIL.Image.Image) -> bool:
    return image.mode in ('LA', 'La', 'RGBA', 'RGBa', 'PA') or 'transparency' in image.info


def _apply_alpha_rule(image: PIL.Image.Image, rule: str) -> PIL.Image.Image:
    """Mode L, RGB, LA or RGBA → the first two, or with 'keep' the last two."""
    is_gray = image.mode in ('L', 'LA')
    if rule == 'keep':
        return image.convert('LA' if is_gray else 'RGBA')
    if image.mode in ('L', 'RGB'):
        return image
    if rule == 'white':
        return on_white(image)
    lowest_alpha = image.getchannel('A').getextrema()[0]
    if lowest_alpha < 255:
        raise BadImage('transparent in places (put it on a background of your choice, or see --alpha)')
    return image.convert('L' if is_gray else 'RGB')


def on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Mode LA or RGBA → L or RGB, on a white background."""
    paper = PIL.Image.new(image.mode[:-1], image.size, 'white')
    paper.paste(image.convert(paper.mode), mask=image.getchannel('A'))
    return paper


def to_pixels(image: PIL.Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, C] of mode L, RGB, LA or RGBA; black where nothing can be seen."""
    pixels = np.array(image)
    if image.mode in ('LA', 'RGBA'):
        pixels[pixels[:, :, -1] == 0] = 0
    return pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """An uncompressed PNG of uint8 pixels [H, W] or [H, W, C], C from 2 to 4.

    Stored deflate blocks are written here rather than by a library, so that the bytes depend on nothing but the
    pixels (PNG: ISO/IEC 15948; zlib and deflate: RFC 1950, 1951).
    """
    height, width = pixels.shape[:2]
    color_type = 0 if pixels.ndim == 2 else {2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    rows = np.zeros([height, 1 + pixels[0].size], dtype=np.uint8)  # each row begins with its filter type: 0, none
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
