"""Transforms that bring images to the size of the dataset."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from dataset_conversion.loading import ALPHA_RULES, CHANNEL_RULES
from dataset_format.images import MAX_PIXELS, BadImage, crop_to_proportions, describe_excess
from dataset_format.sizes import MAX_DATASET_PIXELS, describe_unusable_size, is_usable_size
from dnnlib.errors import InvalidArgument

RESIZE_FILTERS = {'lanczos': PIL.Image.Resampling.LANCZOS, 'box': PIL.Image.Resampling.BOX}


class SkippedImage(Exception):
    """An intact image that a transform leaves out by design; the message completes 'NAME: ...'."""


@dataclass(frozen=True)
class Transform:
    """The conversion of each image.

    Args:
        crop: None resizes the whole image. 'center-crop' first crops to the largest central part with the proportions
            width:height. 'center-crop-wide' does so too, but skips smaller images and centers the result on a square.
        width: Width to resize to, or None to keep the width of the image.
        height: Height to resize to, or None to keep the height of the image.
        resize_filter: 'lanczos' or 'box'.
        alpha: Treatment of alpha channels before the other steps, one of ALPHA_RULES.
        channels: Conversion to grayscale or RGB before the other steps, one of CHANNEL_RULES.
        max_pixels: Largest number of pixels of an image before the conversion.

    Raises:
        InvalidArgument: Argument 'crop' or 'size': the transform has no size, or one that networks do not support.
    """

    crop: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = 'lanczos'
    alpha: str = ALPHA_RULES[0]
    channels: str = CHANNEL_RULES[0]
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        width, height = self.width or self.height, self.height or self.width
        if self.crop is not None and not (self.width and self.height):
            raise InvalidArgument('crop', f'{self.crop} requires an output size: add --resolution=WxH.')
        if width is None or height is None:
            return
        if self.crop == 'center-crop-wide':
            if height > width:
                raise InvalidArgument(
                    'crop',
                    f'center-crop-wide makes wide images: the height may not exceed the width, got {width}x{height}.',
                )
            height = width  # of the square on which the result is centered
        if width * height > MAX_DATASET_PIXELS:
            raise InvalidArgument('size', f'{describe_excess(width, height, MAX_DATASET_PIXELS)}.')
        if not is_usable_size(width, height):
            raise InvalidArgument('size', f'{describe_unusable_size(width, height)}.')

    @property
    def gives_one_shape(self) -> bool:
        """Whether all results have the same size and channels, whatever the images."""
        return bool(self.width and self.height) and self.channels != 'keep'

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Transform one image.

        Raises:
            SkippedImage: The image is too small for 'center-crop-wide'.
            BadImage: The result would be too large.
        """
        width, height = self.width or image.width, self.height or image.height
        if self.crop == 'center-crop-wide' and (image.width < width or image.height < height):
            raise SkippedImage(f'{image.width}x{image.height} is smaller than {width}x{height}')
        if self.crop is not None:
            image = crop_to_proportions(image, width, height)
        if width * height > MAX_DATASET_PIXELS:
            excess = describe_excess(width, height, MAX_DATASET_PIXELS)
            raise BadImage(f'{excess} after the conversion (use --resolution=WxH)')
        if image.size != (width, height):
            image = image.resize((width, height), RESIZE_FILTERS[self.resize_filter])
        if self.crop == 'center-crop-wide':
            image = letterbox(image)
        return image


def letterbox(image: PIL.Image.Image) -> PIL.Image.Image:
    """Center a wide image on a square that is black, or transparent if the image has an alpha channel."""
    square = PIL.Image.new(image.mode, (image.width, image.width))
    square.paste(image, (0, (image.width - image.height) // 2))
    return square


def check_output_size(image: PIL.Image.Image) -> None:
    """Raise BadImage unless networks can generate images of this size."""
    if not is_usable_size(*image.size):
        raise BadImage(
            f'{describe_unusable_size(*image.size)} (use --resolution=WxH, and --transform=center-crop to keep the '
            'proportions)'
        )
