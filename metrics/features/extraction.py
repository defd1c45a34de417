"""One pass over images in which detectors compute all features that metrics request, distributed over all ranks.

N images, D dimensions of a feature vector. The ranks take turns, a batch at a time. If one rank fails, all fail.
"""

from __future__ import annotations

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics.batching import rounds
from metrics.features import detectors
from metrics.features.collectors import FeatureCollector, Moments, MomentsCollector
from metrics.features.detectors import Detector
from metrics.features.feature_requests import DetectorCall, FeatureRequest
from metrics.features.image_sources import ImageSource, require_finite
from torch_utils.distributed import World, failing_together


def extract(
    world: World,
    source: ImageSource,
    counts: dict[FeatureRequest, int],
    loaded_detectors: dict[str, Detector],
    dims: dict[DetectorCall, int],
    batch: int,
    progress: Progress,
) -> dict[FeatureRequest, Moments | np.ndarray | None]:
    """Compute the features of the first images of a source for all requests. Collective: every rank must call this.

    Args:
        world: Ranks.
        source: Images, the same on all ranks.
        counts: Number of images for each request.
        loaded_detectors: Detectors by name.
        dims: D of each call.
        batch: Images that a detector sees at once.
        progress: Display for the number of images.

    Returns:
        The `Moments` or the features [N, D] of each request on the main rank, else None.
    """
    batches_of_rounds = rounds(max(counts.values()), batch, world.size)
    own_batches = source.batches([batches[world.rank] for batches in batches_of_rounds if batches[world.rank]])
    with failing_together(world):
        collectors = {request: _collector(world, request, n, dims[request.call]) for request, n in counts.items()}
    for batches in batches_of_rounds:
        unfinished = {request: count for request, count in counts.items() if count > batches[0].start}
        # Compute the features of this rank's batch.
        with failing_together(world):
            images = next(own_batches) if batches[world.rank] else None
            features = {
                call: _features(loaded_detectors[call.detector], images, call, dims[call], world.device)
                for call in {request.call for request in unfinished}
            }
        # Merge the features of all ranks.
        for request, count in unfinished.items():
            sizes = [len(range(indices.start, min(indices.stop, count))) for indices in batches]
            collectors[request].add(features[request.call], sizes)
        progress.update(batches[-1].stop)
    return {request: collector.finish() for request, collector in collectors.items()}


def _collector(world: World, request: FeatureRequest, count: int, dim: int) -> MomentsCollector | FeatureCollector:
    if request.as_moments:
        return MomentsCollector(world, dim)
    return FeatureCollector(world, count, dim, getattr(torch, request.call.dtype))


def _features(
    detector: Detector, images: torch.Tensor | None, call: DetectorCall, dim: int, device: torch.device
) -> torch.Tensor:
    """Return the features float32 [N, D] of images, or [0, D] if this rank has no images in this round."""
    if images is None:
        return torch.zeros([0, dim], device=device)
    features = detectors.apply(detector, images, call).to(torch.float32)
    return require_finite(features, f'The detector {detector.name!r} gives features')
