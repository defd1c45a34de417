"""Options that all metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricOptions:
    """How metrics are computed. This is the one place that defines the defaults."""

    # As in network pickles: `class_name` and keywords. Those that select images (`max_size`, `random_seed`, `skip`)
    # count only for metrics that compare with the training images.
    dataset_kwargs: dict[str, Any]
    held_out_kwargs: dict[str, Any] | None = None  # likewise, of images held out of the training
    seed: int = 0
    batch: int = 64  # images that a detector sees at once
    detectors: str | None = None  # folder with detectors, or None for the published ones
    num_samples: int = 50_000  # pairs for path lengths; the names of other metrics contain their number of images
    bootstrap: int = 0  # resamples for the intervals of distances, such as FID and KID; 0 computes no such intervals
    workers: int = 0  # processes per rank that decode images; 0 decodes in the rank itself
    verbose: bool = True  # show the progress
    cuda_graphs: bool = False  # replay the generator's kernels (`torch_utils.inference_graphs`)


SMALL_DATASET = 10_000  # images; intervals of distances are computed for smaller datasets
DEFAULT_RESAMPLES = 1000


def resamples_for(num_images: int | None, held_out_kwargs: dict[str, Any] | None) -> int:
    """Return the value of `MetricOptions.bootstrap` where the user does not choose one.

    Args:
        num_images: Number of images of the dataset, if it is known.
        held_out_kwargs: As in `MetricOptions`; there are usually few such images.
    """
    is_small = held_out_kwargs is not None or (num_images is not None and num_images < SMALL_DATASET)
    return DEFAULT_RESAMPLES if is_small else 0
