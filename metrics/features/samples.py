"""Everything that the metrics of one network look at, gathered once for all of them.

Every rank makes the calls marked "collective", in the same order; the main rank alone gets results.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dnnlib.progress import Progress
from metrics.features import detectors
from metrics.features.cache import StatisticsCache, content_sha256
from metrics.features.collectors import Moments
from metrics.features.detectors import Detector
from metrics.features.extraction import Call, Need, gather
from metrics.features.image_sources import GeneratedImages, RealImages, images_at_once, open_dataset, transparency_of
from metrics.options import Settings
from torch_utils import misc
from torch_utils.distributed import World, broadcast_object, failing_together
from training.dataset import Dataset


class Samples:
    """Features of real and generated images.

    Args:
        world:    ranks.
        G:        generator in eval mode on `world.device`.
        settings: see there.
        wanted:   what all metrics are going to need, so that one pass over the images serves them all.
        cache:    where features of real images are kept.
    """

    def __init__(
        self, world: World, G: torch.nn.Module, settings: Settings, wanted: Sequence[Need], cache: StatisticsCache
    ):
        self.world, self.G, self.settings = world, G, settings
        self._wanted, self._cache = wanted, cache
        self._have: dict[Need, Moments | np.ndarray | None] = {}
        self._found: dict[str, Detector] = {}
        self._dims: dict[Call, int] = {}
        self._datasets: dict[bool, Dataset] = {}
        self._content: str | None = None

    def get(self, need: Need) -> Moments | np.ndarray | None:
        """Collective: `Moments`, or features [N, D] in the order of the images."""
        if need not in self._have:
            self.prepare(need.call)
            same_images = [other for other in self._wanted if (other.real, other.xflip) == (need.real, need.xflip)]
            pending = {need: None} | {other: None for other in same_images if other not in self._have}
            pending = [other for other in pending if self._is_available(other.call)]
            pending = [other for other in pending if not (other.real and self._load_cached(other))]
            if pending:
                self._gather({need: self.count(need) for need in pending})
        return self._have[need]

    def count(self, need: Need) -> int:
        """Collective: of how many images there are features."""
        if not need.real:
            return need.count
        available = len(self.dataset(need.xflip))
        return available if need.count is None else min(need.count, available)

    def dataset(self, xflip: bool = False) -> Dataset:
        """Collective: all images of the dataset, with or without their mirror images."""
        if xflip not in self._datasets:
            with failing_together(self.world):
                self._datasets[xflip] = open_dataset(self.settings.dataset_kwargs, xflip, self.G)
        return self._datasets[xflip]

    def dataset_sha256(self) -> str | None:
        """Collective: digest of the dataset's content; None for a kind of dataset that has none."""
        dataset = self.dataset()
        if self._content is None and hasattr(dataset, 'content_sha256'):
            with failing_together(self.world):
                if self.world.is_main:
                    self._content = content_sha256(dataset, shown=self.settings.verbose)
            self._content = broadcast_object(self.world, self._content)
        return self._content

    def prepare(self, call: Call) -> Detector:
        """Collective: the detector for a call, known to answer it. The main rank loads first: it may download."""
        for main_turn in (True, False):
            with failing_together(self.world):
                if call.detector not in self._found and self.world.is_main == main_turn:
                    shown = self.settings.verbose and main_turn
                    self._found[call.detector] = detectors.load(
                        call.detector, self.world.device, self.settings.detectors, shown
                    )
        detector = self._found[call.detector]
        if call not in self._dims:
            with failing_together(self.world):
                keywords, resolution = dict(call.keywords), self.G.img_resolution
                self._dims[call] = detectors.check(detector, keywords, resolution, self.world.device)
        return detector

    def images_at_once(self) -> int:
        """How many images the generator makes together."""
        return images_at_once(self.G.img_resolution, self.settings.batch)

    def progress(self, what: str, total: int = 0, unit: str = 'img') -> Progress:
        return Progress(what, total, unit, shown=self.settings.verbose and self.world.is_main)

    def close(self) -> None:
        for dataset in self._datasets.values():
            dataset.close()

    def _is_available(self, call: Call) -> bool:
        """Collective. A detector that fails must not take along the metrics that go without it."""
        try:
            self.prepare(call)
        except ValueError:
            return False
        return True

    def _gather(self, counts: dict[Need, int]) -> None:
        first = next(iter(counts))
        device = self.world.device
        if first.real:
            source = RealImages(self.dataset(first.xflip), self.settings.workers, device)
        else:
            source = GeneratedImages(self.G, self.dataset(), self.settings.seed, self.images_at_once(), device)
        progress = self.progress(f'Features of {source.what}', max(counts.values()))
        with networks_in_full_precision(), progress:
            self._have |= gather(self.world, source, counts, self._found, self._dims, self.settings.batch, progress)
        for need in counts:
            key = self._key_of(need)
            if need.real and self.world.is_main and self._content is not None:
                self._cache.save(key, _as_arrays(self._have[need]))

    def _load_cached(self, need: Need) -> bool:
        """Collective: whether the features are there now."""
        if self.dataset_sha256() is None:
            return False
        key = self._key_of(need)
        with failing_together(self.world):
            arrays = self._cache.load(key) if self.world.is_main else None
        hit = broadcast_object(self.world, arrays is not None)
        if hit:
            self._have[need] = None if arrays is None else _from_arrays(arrays)
        return hit

    def _key_of(self, need: Need) -> dict[str, Any]:
        """Collective."""
        return {
            'dataset': self._content,
            'images': self.count(need),
            'xflip': need.xflip,
            'detector': self._found[need.call.detector].sha256,
            'call': dict(need.call.keywords),
            'kept': 'moments' if need.as_moments else str(need.call.dtype),
            **transparency_of(self.G.img_channels),
        }


def _as_arrays(kept: Moments | np.ndarray) -> dict[str, np.ndarray]:
    if isinstance(kept, Moments):
        return {'count': np.array(kept.count), 'mean': kept.mean, 'cov': kept.cov}
    return {'features': kept}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Moments | np.ndarray:
    if 'features' in arrays:
        return arrays['features']
    return Moments(int(arrays['count']), arrays['mean'], arrays['cov'])


def network_sha256(G: torch.nn.Module) -> str:
    """Digest of a network's parameters and buffers, the same for the same network in whatever file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(misc.named_params_and_buffers(G)):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f'{name} {array.dtype.str} {array.shape}\n'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def networks_in_full_precision() -> Iterator[None]:
    """Inside, products of float32 are not rounded to TensorFloat-32, and cuDNN takes the fastest of its algorithms."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with misc.full_precision():
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
