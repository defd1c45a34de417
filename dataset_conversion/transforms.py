"""Transforms: bring an image to the size of the dataset."""

from dataclasses import dataclass

import PIL.Image

from dataset_format.images import ALPHA_RULES, BadImage
from dataset_format.sizes import is_usable_size, size_mistake

RESIZE_FILTERS = {'lanczos': PIL.Image.Resampling.LANCZOS, 'box': PIL.Image.Resampling.BOX}


class SkippedImage(Exception):
    """An intact image that a transform leaves out by its rule; the text completes 'NAME: ...'."""


@dataclass(frozen=True)
class Transform:
    """What happens to each image.

    Attributes:
        crop:           None (the whole image is resized), 'center-crop' (its largest central part of the proportions
                        width:height is), or 'center-crop-wide' (that too, but no smaller image is used, and what comes
                        out is centred on a square).
        width, height:  size to resize to; None = as the image is.
        resize_filter:  'lanczos' or 'box'.
        alpha:          what becomes of alpha channels before all that: one of ALPHA_RULES.

    Raises ValueError where these do not lead to a size that networks can have.
    """

    crop: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = 'lanczos'
    alpha: str = ALPHA_RULES[0]

    def __post_init__(self) -> None:
        asked = f'{self.width or "?"}x{self.height or "?"}'
        if self.crop is not None and not (self.width and self.height):
            raise ValueError(f'--transform={self.crop} needs the size to make: add --resolution=WxH.')
        if self.crop == 'center-crop-wide':
            if self.height > self.width:
                raise ValueError(
                    f'--transform=center-crop-wide makes wide pictures, not {asked}: '
                    'the height may not exceed the width.'
                )
        if self.width or self.height:
            result = (self.width or self.height, self.height or self.width)
            if self.crop == 'center-crop-wide':
                result = (self.width, self.width)
            if not is_usable_size(*result):
                raise ValueError(f'{asked} cannot be made: {size_mistake(*result)}.')

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Transform one image. Raises SkippedImage."""
        if self.crop == 'center-crop-wide' and (image.width < self.width or image.height < self.height):
            raise SkippedImage(f'{image.width}x{image.height} is smaller than {self.width}x{self.height}')
        if self.crop is not None:
            image = crop_to_proportions(image, self.width, self.height)
        size = (self.width or image.width, self.height or image.height)
        if image.size != size:
            image = image.resize(size, RESIZE_FILTERS[self.resize_filter])
        if self.crop == 'center-crop-wide':
            image = letterbox(image)
        return image


def crop_to_proportions(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """The largest central part with the proportions width:height."""
    crop_width = min(image.width, round(image.height * width / height))
    crop_height = min(image.height, round(image.width * height / width))
    return crop_center(image, crop_width, crop_height)


def crop_center(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if image.size == (width, height):
        return image
    return image.crop((left, top, left + width, top + height))


def letterbox(image: PIL.Image.Image) -> PIL.Image.Image:
    """A wide image, centred on a square that is black, and transparent where the image may be."""
    square = PIL.Image.new(image.mode, (image.width, image.width))
    square.paste(image, (0, (image.width - image.height) // 2))
    return square


def check_output_size(image: PIL.Image.Image) -> None:
    """BadImage unless networks can make images of this size."""
    if not is_usable_size(*image.size):
        raise BadImage(
            f'{size_mistake(*image.size)} (--resolution=WxH makes it so, with --transform=center-crop '
            'without squeezing it)'
        )
