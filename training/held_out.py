"""Which images are trained on, and which are held out for `training.validation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataset_format.images import CHANNEL_KINDS
from dataset_format.sizes import describe_size
from dnnlib.errors import InvalidArgument
from training import known_classes

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset


def held_out_size(validation: int | str | None) -> int:
    """Return the number of images of the dataset itself that are held out, for the value of `--validation`."""
    return validation if isinstance(validation, int) else 0


def training_set_size(num_images: int, subset: int | None, validation: int | str | None) -> int:
    """Return the number of images to train on.

    Args:
        num_images: Number of images of the dataset.
        subset: Value of `--subset`.
        validation: Value of `--validation`.

    Raises:
        InvalidArgument: There are not enough images.
    """
    held_out = held_out_size(validation)
    available = num_images - held_out
    if available < 1:
        raise InvalidArgument(
            'validation',
            f'{held_out} images cannot be held out of {num_images}: use a number from 1 to {num_images - 1}.'
            if num_images > 1
            else 'the dataset has only one image: leave this option out, or name a folder or archive with others.',
        )
    if subset is not None and subset > available:
        raise InvalidArgument(
            'subset',
            f'{subset} images to train on and --validation={held_out} held-out ones are more than the {num_images} '
            f'of the dataset: use a number from 1 to {available}.',
        )
    return available if subset is None else subset


def validation_set_kwargs(
    validation: int | str | None, training_set_kwargs: dict[str, Any], dataset: ImageFolderDataset, seed: int
) -> dict[str, Any] | None:
    """Return the class and keywords of the held-out images; None without any.

    Held-out images of the dataset itself are those that follow the training images in the order that the seed selects
    them in.

    Args:
        validation: Value of `--validation`.
        training_set_kwargs: Class and keywords of the training images.
        dataset: The whole dataset of the training.
        seed: Seed of the run.

    Raises:
        InvalidArgument: The images cannot be read, or differ from those of the dataset in size, channels or labels.
    """
    if validation is None:
        return None
    kwargs = {name: training_set_kwargs[name] for name in ('class_name', 'path', 'use_labels', 'resolution')}
    if isinstance(validation, int):
        return {**kwargs, 'max_size': validation, 'skip': training_set_kwargs['max_size'], 'random_seed': seed}
    kwargs |= {'path': validation}
    try:
        others = known_classes.construct({**kwargs, 'resolution': None}, known_classes.DATASETS, cache_mib=0)
    except (ValueError, OSError) as error:
        raise InvalidArgument('validation', str(error)) from error
    with_names = others.class_names and dataset.class_names
    for what, found, expected in (
        ('images', _describe_images(others), _describe_images(dataset)),
        ('labels', f'{others.label_dim} numbers', f'{dataset.label_dim} numbers'),
        ('classes', others.class_names if with_names else None, dataset.class_names if with_names else None),
    ):
        if found != expected:
            raise InvalidArgument(
                'validation',
                f'the {what} of {validation!r} differ from those of the dataset ({found} instead of {expected}): '
                'convert both with dataset_tool.py in the same way, or hold some of the dataset out with '
                '--validation=N.',
            )
    others.close()
    return kwargs


def describe_held_out(kwargs: dict[str, Any]) -> str:
    """Return one fact about the held-out images of these keywords."""
    return f'{kwargs["max_size"]:,} images held out' if 'max_size' in kwargs else f'the images of {kwargs["path"]}'


def _describe_images(dataset: ImageFolderDataset) -> str:
    return f'{describe_size(dataset.resolution)} {CHANNEL_KINDS[dataset.num_channels]}'
