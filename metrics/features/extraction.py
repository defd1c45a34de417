"""One pass over images, in which detectors answer all that metrics want to know, over all ranks.

N images, D numbers in a feature vector. Images go to the ranks in turns, a batch at a time. Whatever a rank fails at,
all of them fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics.features import detectors
from metrics.features.collectors import FeatureCollector, Moments, MomentsCollector
from metrics.features.detectors import Detector
from metrics.features.image_sources import ImageSource, require_finite
from torch_utils.distributed import World, failing_together


@dataclass(frozen=True)
class Call:
    """A question to a detector, and the precision in which its answers are kept."""

    detector: str
    keywords: tuple[tuple[str, bool], ...]
    dtype: torch.dtype = torch.float32


INCEPTION_FEATURES = Call('inception', tuple(detectors.FEATURES.items()))
INCEPTION_PROBABILITIES = Call('inception', tuple(detectors.PROBABILITIES.items()))
VGG_FEATURES = Call('vgg16', tuple(detectors.FEATURES.items()), torch.float16)
VGG_LPIPS = Call('vgg16', tuple(detectors.LPIPS.items()))


@dataclass(frozen=True)
class Need:
    """What a metric wants to know: of how many images, real or generated, and whether as moments or as features."""

    call: Call
    count: int | None  # the first images of the dataset, or so many generated ones; None: the whole dataset
    real: bool
    as_moments: bool = False
    xflip: bool = False


def gather(
    world: World,
    source: ImageSource,
    counts: dict[Need, int],
    found: dict[str, Detector],
    dims: dict[Call, int],
    batch: int,
    progress: Progress,
) -> dict[Need, Moments | np.ndarray | None]:
    """Show the first images of `source` to detectors, once for all needs. Every rank must call this.

    Args:
        source:   of images, alike on all ranks.
        counts:   what is wanted, and of how many images.
        found:    detectors by name.
        dims:     D of each call.
        batch:    images that a detector sees at once.
        progress: of the images.

    Returns:
        For each need its `Moments`, or numpy [N, D]; None but on the main rank.
    """
    rounds = _rounds(max(counts.values()), batch, world.size)
    images_of_rank = source.batches([spans[world.rank] for spans in rounds if spans[world.rank]])
    with failing_together(world):
        collectors = {need: _collector(world, need, count, dims[need.call]) for need, count in counts.items()}
    for spans in rounds:
        wanted = {need: count for need, count in counts.items() if count > spans[0].start}
        with failing_together(world):
            images = next(images_of_rank) if spans[world.rank] else None
            answers = {
                call: _answer(found[call.detector], images, call, dims[call], world.device)
                for call in {need.call for need in wanted}
            }
        for need, count in wanted.items():
            sizes = [len(range(span.start, min(span.stop, count))) for span in spans]
            collectors[need].add(answers[need.call], sizes)
        progress.update(spans[-1].stop)
    return {need: collector.finish() for need, collector in collectors.items()}


def _collector(world: World, need: Need, count: int, dim: int) -> MomentsCollector | FeatureCollector:
    return MomentsCollector(world, dim) if need.as_moments else FeatureCollector(world, count, dim, need.call.dtype)


def _rounds(count: int, batch: int, num_ranks: int) -> list[list[range]]:
    """Spans of indices: in each round one for every rank, in order; the last ones may be short or empty."""

    def span(number: int) -> range:
        return range(min(number * batch, count), min((number + 1) * batch, count))

    num_rounds = -(-count // (batch * num_ranks))
    return [[span(index * num_ranks + rank) for rank in range(num_ranks)] for index in range(num_rounds)]


def _answer(
    detector: Detector, images: torch.Tensor | None, call: Call, dim: int, device: torch.device
) -> torch.Tensor:
    """float32 [N, D]; [0, D] for a rank that has no images in this round."""
    if images is None:
        return torch.zeros([0, dim], device=device)
    answer = detectors.ask(detector, images, dict(call.keywords)).to(torch.float32)
    return require_finite(answer, f'The detector {detector.name!r} gives features')
