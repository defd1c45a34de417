"""What a metric can request: detector features of images, distances along paths, and errors of transformed images.

Plain data, without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DetectorCall:
    """A way to call a detector; `metrics.features.detectors` describes what each call returns."""

    detector: str  # 'inception', 'vgg16', 'dinov2' or 'clip'
    keywords: tuple[tuple[str, bool], ...]
    dtype: str = 'float32'  # PyTorch type in which the features are stored
    clean_resize: bool = False  # whether images are resized first: `metrics.features.clean_resize`


INCEPTION_FEATURES = DetectorCall('inception', (('return_features', True),))
INCEPTION_PROBABILITIES = DetectorCall('inception', (('no_output_bias', True),))
VGG_FEATURES = DetectorCall('vgg16', (('return_features', True),), dtype='float16')
VGG_LPIPS = DetectorCall('vgg16', (('resize_images', False), ('return_lpips', True)))
CLEAN_INCEPTION_FEATURES = DetectorCall('inception', (('return_features', True),), clean_resize=True)
DINOV2_FEATURES = DetectorCall('dinov2', (('return_features', True),))
CLIP_FEATURES = DetectorCall('clip', (('return_features', True),))
ALL_CALLS = (INCEPTION_FEATURES, INCEPTION_PROBABILITIES, VGG_FEATURES, VGG_LPIPS)  # of published detectors

# Which real images
ALL = 'all'  # of the dataset, whichever of them the network was trained on
TRAINING = 'training'  # those that the network was trained on
HELD_OUT = 'held out'  # those that were held out of the training


@dataclass(frozen=True)
class FeatureRequest:
    """Features of real or generated images, or only their mean and covariance."""

    call: DetectorCall
    count: int | None  # the first images of the dataset, or the number of generated ones; None: the whole dataset
    real: bool
    as_moments: bool = False
    xflip: bool = False  # whether mirrored images count as real ones, too
    images: str = ALL  # which real images: ALL, TRAINING or HELD_OUT


@dataclass(frozen=True)
class PathRequest:
    """LPIPS distances of pairs of generated images that are a small step apart: `metrics.features.path_pairs`."""

    space: str  # 'z' or 'w'
    sampling: str  # 'full' or 'end'
    crop: bool
    count: int  # pairs


@dataclass(frozen=True)
class EquivarianceRequest:
    """Errors of generated images whose generator's input was transformed: `metrics.features.transformed_images`."""

    transformation: str  # 'integer translation', 'fractional translation' or 'rotation'
    count: int  # images


Request = FeatureRequest | PathRequest | EquivarianceRequest


def num_copies(dataset_kwargs: Mapping[str, Any]) -> int:
    """Return how often each image occurs among the training images: 1, or with mirror images 2 or 4."""
    return 2 ** sum(bool(dataset_kwargs.get(name)) for name in ('xflip', 'yflip'))
