"""Transforms: bring an image to the size of the dataset."""

from collections.abc import Callable
from dataclasses import dataclass

import PIL.Image

from dataset_conversion.images import BadImage

RESIZE_FILTERS = {'lanczos': PIL.Image.Resampling.LANCZOS, 'box': PIL.Image.Resampling.BOX}
MIN_SIZE = 4  # the first block of the networks


class SkippedImage(Exception):
    """An intact image that a transform leaves out by its rule; the text completes 'NAME: ...'."""


@dataclass(frozen=True)
class Transform:
    """What happens to each image.

    Attributes:
        crop:           None (the whole image is resized), 'center-crop' (its central square is), or
                        'center-crop-wide' (see `crop_wide`).
        width, height:  size to resize to; None = as the image is.
        resize_filter:  'lanczos' or 'box'.

    Raises ValueError where these do not lead to square images with a power of two for size.
    """
    crop: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = 'lanczos'

    def __post_init__(self) -> None:
        asked = f'{self.width or "?"}x{self.height or "?"}'
        if self.crop is not None and not (self.width and self.height):
            raise ValueError(f'--transform={self.crop} needs the size to make: add --resolution=WxH.')
        if self.crop == 'center-crop-wide':
            if self.height > self.width:
                raise ValueError(f'--transform=center-crop-wide makes wide pictures, not {asked}: '
                                 'the height may not exceed the width.')
        elif self.width and self.height and self.width != self.height:
            raise ValueError(f'{asked} is not square: give the same width and height, '
                             'or --transform=center-crop-wide for wide pictures on a black square.')
        heights = [] if self.crop == 'center-crop-wide' else [self.height]
        for size in filter(None, [self.width, *heights]):
            if not is_usable_size(size):
                raise ValueError(f'{asked} has a side of {size}: sizes are powers of two from {MIN_SIZE} '
                                 f'(such as {nearest_usable_size(size)}).')

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Transform one image. Raises SkippedImage."""
        apply: Callable = {None: lambda image: image, 'center-crop': crop_square,
                           'center-crop-wide': lambda image: crop_wide(image, self.width, self.height)}[self.crop]
        image = apply(image)
        size = (self.width or image.width, self.height or image.height)
        if image.size != size:
            image = image.resize(size, RESIZE_FILTERS[self.resize_filter])
        if self.crop == 'center-crop-wide':
            image = letterbox(image)
        return image


def crop_square(image: PIL.Image.Image) -> PIL.Image.Image:
    side = min(image.size)
    return crop_center(image, side, side)


def crop_wide(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """The largest central part with the proportions width:height. SkippedImage where the image is the smaller one."""
    if image.width < width or image.height < height:
        raise SkippedImage(f'{image.width}x{image.height} is smaller than {width}x{height}')
    crop_width = min(image.width, round(image.height * width / height))
    crop_height = min(image.height, round(image.width * height / width))
    return crop_center(image, crop_width, crop_height)


def crop_center(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))


def letterbox(image: PIL.Image.Image) -> PIL.Image.Image:
    """A wide image, centred on a black square."""
    square = PIL.Image.new(image.mode, (image.width, image.width))
    square.paste(image, (0, (image.width - image.height) // 2))
    return square


def check_output_size(image: PIL.Image.Image) -> None:
    """BadImage unless the image is square with a power of two for its size."""
    if image.width != image.height:
        raise BadImage(f'{image.width}x{image.height} is not square '
                       '(--transform=center-crop --resolution=WxH makes it so)')
    if not is_usable_size(image.width):
        suggestion = nearest_usable_size(image.width)
        raise BadImage(f'{image.width}x{image.height} is not a power of two from {MIN_SIZE} '
                       f'(--resolution={suggestion}x{suggestion} makes it so)')


def is_usable_size(size: int) -> bool:
    return size >= MIN_SIZE and size & (size - 1) == 0


def nearest_usable_size(size: int) -> int:
    """The largest power of two up to `size`."""
    return max(MIN_SIZE, 1 << (size.bit_length() - 1))
