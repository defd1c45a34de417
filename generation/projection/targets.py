"""Pictures to project: any file that Pillow reads, of any size and kind, as the pixels of a network's image.

What becomes of a picture: it is turned as its EXIF data say; transparent parts become white, unless the network makes
such itself; 16 bits per channel are scaled to 8; its largest central part with the proportions of the network's images
is scaled to their size (Lanczos). A network of grayscale images takes grayscale pictures only, also those stored as
colours that are all gray; a network of colour images takes both.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import PIL.Image

from dataset_conversion.transforms import crop_to_proportions
from dataset_format.images import BadImage, decode, has_alpha, is_image_name, on_white, to_pixels
from dataset_format.sizes import Resolution, sides

TARGET_RULES = """\
Targets may be of any size and kind: each is turned as its EXIF data say, transparent parts become white (unless the
network's images have alpha themselves), 16 bits are scaled to 8, and the largest central part with the proportions of
the network's images is scaled to their size. A network of grayscale images takes no coloured picture."""

_GRAY_TOLERANCE = 8  # levels of 255 by which the channels of a gray picture may differ: lossy formats are not exact
_LARGEST_16_BIT = 65535
_OPTION = "'--target'"


@dataclass(frozen=True)
class Target:
    """A picture to project.

    name: Its file's name without the extension.
    is_colored: Whether it shows colours; False for gray pictures stored as colours too.
    """

    path: Path
    name: str
    is_colored: bool


def find_targets(places: Iterable[str]) -> list[Target]:
    """The pictures that `--target` names: files, and the images directly in folders, ordered by name.

    Every file is decoded once, so that a damaged one is found before hours of work. Raises click.BadParameter where one
    cannot be used, or where two share a name.
    """
    targets = [_inspect(path) for place in places for path in _files_of(place)]
    by_name: dict[str, Target] = {}
    for target in targets:
        other = by_name.setdefault(target.name.casefold(), target)
        if other is not target:
            raise click.BadParameter(
                f'{other.path} and {target.path} would both be written to a folder {target.name!r}: rename one, or '
                'project them in two calls.',
                param_hint=_OPTION,
            )
    return targets


def load_target(target: Target, resolution: Resolution, num_channels: int) -> np.ndarray:
    """Pixels of the picture for a network, uint8 [C, H, W] (C from 1 to 4; H, W as `resolution` says).

    Raises click.BadParameter where the file cannot be read (any more) or is coloured and the network is not.
    """
    check_channels(target, num_channels)
    height, width = sides(resolution)
    image = _read(target.path)
    if num_channels in (1, 3) and has_alpha(image):
        image = on_white(image)
    image = image.convert({1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[num_channels])
    image = crop_to_proportions(image, width, height)
    pixels = to_pixels(image.resize((width, height), PIL.Image.Resampling.LANCZOS))  # HW or HWC
    return pixels[np.newaxis] if num_channels == 1 else pixels.transpose(2, 0, 1)


def check_channels(target: Target, num_channels: int) -> None:
    """Raises click.BadParameter where the picture is coloured and the network makes grayscale images."""
    if num_channels in (1, 2) and target.is_colored:
        raise click.BadParameter(
            f'{target.path} is coloured, but the network makes grayscale images: convert it to grayscale first.',
            param_hint=_OPTION,
        )


def _files_of(place: str) -> list[Path]:
    path = Path(place)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if is_image_name(file.name) and file.is_file())
    if not files:
        raise click.BadParameter(f'{place} has no images directly in it: give another folder.', param_hint=_OPTION)
    return files


def _inspect(path: Path) -> Target:
    name = path.stem if path.stem.strip('.') else path.name  # '..jpg' has '.' for its stem, a folder that is there
    return Target(path, name, is_colored=_is_colored(_read(path)))


def _is_colored(image: PIL.Image.Image) -> bool:
    if has_alpha(image):
        image = on_white(image)
    if image.mode == 'L':
        return False
    side = min(image.size)
    pixels = np.asarray(crop_to_proportions(image, side, side))  # HWC
    return int((pixels.max(axis=2) - pixels.min(axis=2)).max()) > _GRAY_TOLERANCE


# ------------------------------------------------------------------------------------- the kinds of pictures


def _read(path: Path) -> PIL.Image.Image:
    """The whole picture, upright, of mode L, LA, RGB or RGBA."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's remarks on odd metadata and on large pictures
            return _to_8_bits(decode(path.read_bytes()))
    except BadImage as error:
        raise click.BadParameter(f'{path}: {error}.', param_hint=_OPTION) from error
    except OSError as error:
        raise click.BadParameter(f'{path}: {error.strerror or error}.', param_hint=_OPTION) from error


def _to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any mode → L, LA, RGB or RGBA. Pillow has turned 16-bit colours into 8 bits already."""
    if image.mode.startswith('I') or image.mode == 'F':
        return _from_wide_pixels(np.asarray(image, dtype=np.float64), is_float=image.mode == 'F')
    if has_alpha(image):
        return image.convert('LA' if image.mode in ('1', 'L', 'LA', 'La') else 'RGBA')
    if image.mode in ('1', 'L'):
        return image.convert('L')
    try:
        return image.convert('RGB')
    except ValueError as error:
        raise BadImage(f'mode {image.mode} (only grayscale and color images can be used)') from error


def _from_wide_pixels(values: np.ndarray, is_float: bool) -> PIL.Image.Image:
    """Grayscale with more than 8 bits; integers up to 65535 and floating-point numbers up to 1 are scaled to 255."""
    largest = 1 if is_float else _LARGEST_16_BIT
    if not (values.min() >= 0 and values.max() <= largest):  # in this form, NaN is refused too
        raise BadImage(
            f'pixels from {values.min():g} to {values.max():g}, beyond 0 to {largest} (scale it to 8 or 16 bits)'
        )
    return PIL.Image.fromarray(np.rint(values * (255 / largest)).astype(np.uint8))
