"""Load pictures to project: files of any size and kind that Pillow reads, as the pixels of a network's image.

A picture is rotated as its EXIF data say; transparent parts become white, unless the network generates alpha itself; 16
bits per channel are scaled to 8; and the largest central part with the proportions of the network's images is scaled to
their size (Lanczos). A network of grayscale images accepts grayscale pictures only, including those stored in color
whose pixels are all gray; a network of color images accepts both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from dataset_format.images import (
    MAX_PIXELS,
    BadImage,
    TooLarge,
    bands_of,
    convert,
    crop_to_proportions,
    decode,
    has_alpha,
    is_image_name,
    max_file_bytes,
    paste_on_white,
    to_pixels,
)
from dataset_format.sizes import Resolution, sides
from dnnlib.errors import InvalidArgument
from dnnlib.files import read_file

TARGET_RULES = """\
Targets may be of any size and kind: each is rotated as its EXIF data say, transparent parts become white (unless the
network's images have alpha themselves), 16 bits are scaled to 8, and the largest central part with the proportions of
the network's images is scaled to their size. A network of grayscale images does not accept color pictures."""

_GRAY_TOLERANCE = 8  # difference between the channels of a gray picture, of 255: lossy formats are not exact
_MAX_16_BIT = 65535


@dataclass(frozen=True)
class Target:
    """A picture to project.

    Args:
        path: Its file.
        name: The file's name without the extension.
        is_colored: Whether it contains colors; False for gray pictures stored in color.
        max_pixels: Largest number of pixels that is decoded.
    """

    path: Path
    name: str
    is_colored: bool
    max_pixels: int = MAX_PIXELS


def find_targets(paths: Iterable[str], max_pixels: int = MAX_PIXELS) -> list[Target]:
    """Find the pictures to project: files, and the images directly in folders, ordered by name.

    Every file is decoded once, so that a damaged one is found before hours of work.

    Args:
        paths: Files and folders.
        max_pixels: Largest number of pixels of a picture.

    Raises:
        InvalidArgument: Argument 'target': a picture cannot be used, or two have the same name. Argument 'max_pixels':
            a picture is too large.
    """
    targets = [_inspect(file, max_pixels) for path in paths for file in _files_of(path)]
    by_name: dict[str, Target] = {}
    for target in targets:
        other = by_name.setdefault(target.name.casefold(), target)
        if other is not target:
            raise InvalidArgument(
                'target',
                f'{other.path} and {target.path} would both be written to the folder {target.name!r}: rename one, or '
                'project them in two calls.',
            )
    return targets


def load_target(target: Target, resolution: Resolution, num_channels: int) -> np.ndarray:
    """Load a picture for a network.

    Args:
        target: The picture.
        resolution: Resolution of the network.
        num_channels: C, from 1 to 4.

    Returns:
        uint8 [C, H, W].

    Raises:
        InvalidArgument: Argument 'target' or 'max_pixels': the file cannot be read, is too large, or contains colors
            that the network lacks.
    """
    check_channels(target, num_channels)
    height, width = sides(resolution)
    image = _read(target.path, target.max_pixels)
    if num_channels in (1, 3) and has_alpha(image):
        image = paste_on_white(image)
    mode = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[num_channels]
    image = image if image.mode == mode else image.convert(mode)
    image = crop_to_proportions(image, width, height)
    pixels = to_pixels(image.resize((width, height), PIL.Image.Resampling.LANCZOS))  # HW or HWC
    return pixels[np.newaxis] if num_channels == 1 else pixels.transpose(2, 0, 1)


def check_channels(target: Target, num_channels: int) -> None:
    """Raise InvalidArgument if the picture contains colors and the network generates grayscale images."""
    if num_channels in (1, 2) and target.is_colored:
        raise InvalidArgument(
            'target',
            f'{target.path} contains colors, but the network generates grayscale images: convert it first.',
        )


def _files_of(path: str) -> list[Path]:
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    files = sorted(file for file in folder.iterdir() if is_image_name(file.name) and file.is_file())
    if not files:
        raise InvalidArgument('target', f'{path} contains no images directly: choose another folder.')
    return files


def _inspect(path: Path, max_pixels: int) -> Target:
    name = path.stem if path.stem.strip('.') else path.name  # the stem of '..jpg' is '.', which is a folder
    return Target(path, name, _is_colored(_read(path, max_pixels)), max_pixels)


def _is_colored(image: PIL.Image.Image) -> bool:
    if has_alpha(image):
        image = paste_on_white(image)
    if image.mode == 'L':
        return False
    side = min(image.size)
    return any(_spread_of(band) > _GRAY_TOLERANCE for _top, band in bands_of(crop_to_proportions(image, side, side)))


def _spread_of(image: PIL.Image.Image) -> int:
    pixels = np.asarray(image)  # HWC
    return int((pixels.max(axis=2) - pixels.min(axis=2)).max())


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of pictures


def _read(path: Path, max_pixels: int) -> PIL.Image.Image:
    """Return the whole picture, upright, in mode L, LA, RGB or RGBA."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's warnings about odd metadata and large pictures
            return _to_8_bits(decode(read_file(path, max_file_bytes(max_pixels)), max_pixels))
    except TooLarge as error:
        raise InvalidArgument('max_pixels', f'{path} is {error}: raise the limit, or scale the picture.') from error
    except BadImage as error:
        raise InvalidArgument('target', f'{path}: {error}.') from error
    except OSError as error:
        raise InvalidArgument('target', f'{path}: {error.strerror or error}.') from error
    except ValueError as error:  # of `read_file`
        raise InvalidArgument('max_pixels', str(error)) from error


def _to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert any mode to L, LA, RGB or RGBA. Pillow has already reduced 16-bit colors to 8 bits."""
    if image.mode.startswith('I') or image.mode == 'F':
        return _from_wide_pixels(image)
    if image.mode in ('L', 'LA', 'RGB', 'RGBA') and 'transparency' not in image.info:
        return image
    if has_alpha(image):
        return convert(image, 'LA' if image.mode in ('1', 'L', 'LA', 'La') else 'RGBA')
    if image.mode == '1':
        return convert(image, 'L')
    try:
        return image.convert('RGB')
    except ValueError as error:
        raise BadImage(f'mode {image.mode} (only grayscale and color images can be used)') from error


def _from_wide_pixels(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert grayscale with more than 8 bits; integers up to 65535 and floats up to 1 are scaled to 255."""
    largest = 1 if image.mode == 'F' else _MAX_16_BIT
    extremes = np.array([(pixels.min(), pixels.max()) for pixels in map(_as_float64, bands_of(image))])
    lowest, highest = extremes[:, 0].min(), extremes[:, 1].max()
    if not (lowest >= 0 and highest <= largest):  # written so that NaN is refused too
        raise BadImage(f'pixels from {lowest:g} to {highest:g}, outside of 0 to {largest} (scale them to 8 or 16 bits)')
    result = PIL.Image.new('L', image.size)
    for top, band in bands_of(image):
        result.paste(
            PIL.Image.fromarray(np.rint(_as_float64((top, band)) * (255 / largest)).astype(np.uint8)), (0, top)
        )
    return result


def _as_float64(band: tuple[int, PIL.Image.Image]) -> np.ndarray:
    return np.asarray(band[1], dtype=np.float64)
