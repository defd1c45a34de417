"""The features by which projection and tuning compare images: those of LPIPS."""

from __future__ import annotations

from typing import Any

import torch

from dataset_format.sizes import Resolution
from generation.projection.optimization import FeatureFunction, feature_input_size
from metrics.features import detectors
from metrics.features.feature_requests import VGG_LPIPS


def open_detector(folder: str | None, resolution: Resolution, device: torch.device) -> detectors.Detector:
    """Load the feature network, and try it on images of the size that it will see.

    Args:
        folder: Folder that contains it. None: download it.
        resolution: Resolution of the images to compare.
        device: Where it runs.

    Raises:
        metrics.features.detectors.DetectorError: It is missing or cannot be used.
    """
    size = feature_input_size(resolution)
    detector = detectors.load('vgg16', device, folder=folder, verbose=True)
    detectors.check(detector, VGG_LPIPS, list(size), device)
    if not features_of(detector)(torch.zeros([1, 3, *size], device=device, requires_grad=True)).requires_grad:
        raise detectors.DetectorError(f'{detector.source} provides no gradients, which projection needs.')
    return detector


def features_of(detector: detectors.Detector) -> FeatureFunction:
    """Return the function that computes the detector's LPIPS features."""
    return lambda images: detector.module(images, **dict(VGG_LPIPS.keywords))


def describe(detector: detectors.Detector) -> dict[str, Any]:
    """Return what a report says about the detector."""
    return {'name': detector.name, 'label': detector.label, 'sha256': detector.sha256}


def open_feature_function(
    folder: str | None, resolution: Resolution, device: torch.device
) -> tuple[FeatureFunction, dict[str, Any]]:
    """Return the features of `open_detector`, and what a report says about them."""
    detector = open_detector(folder, resolution, device)
    return features_of(detector), describe(detector)
