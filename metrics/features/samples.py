"""The images that the metrics of one network look at, and their features, gathered once for all of these metrics.

Every rank must make the calls marked "Collective", in the same order. Only the main rank gets results.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from dnnlib.progress import Progress
from dnnlib.text import excerpt
from metrics.features import detectors
from metrics.features.cache import ArrayKind, StatisticsCache
from metrics.features.collectors import Moments
from metrics.features.detectors import Detector
from metrics.features.extraction import extract
from metrics.features.feature_requests import (
    ALL,
    HELD_OUT,
    TRAINING,
    VGG_LPIPS,
    DetectorCall,
    EquivarianceRequest,
    FeatureRequest,
    PathRequest,
    Request,
)
from metrics.features.image_sources import (
    SELECTION_KEYWORDS,
    GeneratedImages,
    ImageSource,
    MetricError,
    RealImages,
    alpha_entry,
    as_rgb,
    images_at_once,
    open_dataset,
)
from metrics.features.path_pairs import gather_distances
from metrics.features.transformed_images import gather_errors
from metrics.options import MetricOptions
from torch_utils import misc, precision
from torch_utils.distributed import World, broadcast_object, failing_together
from training.data.digest import content_sha256
from training.dataset import Dataset, ImageFolderDataset


class Samples:
    """Features of real and generated images.

    Args:
        world: Ranks.
        G: Generator in eval mode on `world.device`.
        options: How the metrics are computed.
        requests: Requests of all metrics, so that one pass over the images serves all of them.
        cache: Cache for the features of real images.
    """

    def __init__(
        self, world: World, G: Any, options: MetricOptions, requests: Sequence[Request], cache: StatisticsCache
    ):
        self._world, self._G, self._options, self._cache = world, G, options, cache
        self._requests = [request for request in requests if isinstance(request, FeatureRequest)]
        self._gathered: dict[FeatureRequest, Moments | np.ndarray | None] = {}
        self._detectors: dict[str, Detector] = {}
        self._dims: dict[DetectorCall, int] = {}
        self._datasets: dict[tuple[str, bool], Dataset] = {}
        self._digests: dict[str, str | None] = {}

    def get(self, request: Request) -> Moments | np.ndarray | None:
        """Return what was requested. Collective.

        Returns:
            On the main rank, `Moments`, features [N, D] in the order of the images, distances [N] of pairs of
            images, or errors [N, 2] of transformed images. On other ranks, None.

        Raises:
            ValueError: The detector, the dataset or the images cannot be used.
        """
        if isinstance(request, PathRequest):
            return self._path_distances(request)
        if isinstance(request, EquivarianceRequest):
            return self._equivariance_errors(request)
        if request not in self._gathered:
            self.prepare_detector(request.call)
            # Serve all requests for the same images, but those without a detector or with a cache entry.
            pending = {request: None} | {
                other: None for other in self._requests if _same_images(other, request) and other not in self._gathered
            }
            missing = [other for other in pending if self._has_detector(other.call)]
            missing = [other for other in missing if not (other.real and self._load_cached(other))]
            if missing:
                self._gather_all_or_needed(request, {other: self._num_images(other) for other in missing})
        return self._gathered[request]

    def count(self, request: Request) -> int:
        """Return the number of images or pairs that a request is answered with. Collective."""
        return self._num_images(request) if isinstance(request, FeatureRequest) else request.count

    def dataset(self, xflip: bool = False, images: str = ALL) -> Dataset:
        """Open the dataset with all of its images or some of them, with or without mirrored ones. Collective.

        Args:
            xflip: Whether mirrored images count, too.
            images: ALL, TRAINING or HELD_OUT.

        Raises:
            ValueError: The dataset cannot be used, or no images are held out.
        """
        if (images, xflip) not in self._datasets:
            with failing_together(self._world):
                self._datasets[images, xflip] = open_dataset(
                    self._dataset_kwargs(images), xflip, self._G, selected_only=images != ALL
                )
        return self._datasets[images, xflip]

    def _dataset_kwargs(self, images: str) -> dict[str, Any]:
        kwargs = self._options.held_out_kwargs if images == HELD_OUT else self._options.dataset_kwargs
        if kwargs is None:
            raise MetricError(
                'No images were held out of training. Train with --validation, or name a folder or archive '
                'of images that were not trained on with --validation of calc_metrics.py.'
            )
        return kwargs

    def dataset_sha256(self, images: str = ALL) -> str | None:
        """Return the digest of the content of all images from which those are selected. Collective.

        Args:
            images: ALL, TRAINING or HELD_OUT.

        Returns:
            None if the dataset class does not have a digest.
        """
        images = ALL if images == TRAINING else images  # the same files
        dataset = self.dataset(images=images)
        if images not in self._digests:
            digest = None
            with failing_together(self._world):
                if self._world.is_main and hasattr(dataset, 'content_sha256'):
                    digest = content_sha256(cast(ImageFolderDataset, dataset), verbose=self._options.verbose)
            self._digests[images] = broadcast_object(self._world, digest)
        return self._digests[images]

    def prepare_detector(self, call: DetectorCall) -> Detector:
        """Load the detector of a call, and check that it supports the call. Collective.

        The main rank loads first, because it may have to download the file.

        Raises:
            DetectorError: The detector cannot be found, loaded or called.
        """
        for is_main_turn in (True, False):
            with failing_together(self._world):
                if call.detector not in self._detectors and self._world.is_main == is_main_turn:
                    verbose = self._options.verbose and is_main_turn
                    self._detectors[call.detector] = detectors.load(
                        call.detector, self._world.device, self._options.detectors, verbose
                    )
        detector = self._detectors[call.detector]
        if call not in self._dims:
            with failing_together(self._world):
                self._dims[call] = detectors.check(detector, call, self._G.img_resolution, self._world.device)
        return detector

    def close(self) -> None:
        """Close the dataset."""
        for dataset in self._datasets.values():
            dataset.close()

    def _num_images(self, request: FeatureRequest) -> int:
        """Collective."""
        if not request.real:
            assert request.count is not None
            return request.count
        available = len(self.dataset(request.xflip, request.images))
        return available if request.count is None else min(request.count, available)

    def _has_detector(self, call: DetectorCall) -> bool:
        """Return whether a detector can be used. If not, only the metrics that need it fail. Collective."""
        try:
            self.prepare_detector(call)
        except ValueError:
            return False
        return True

    def _gather_all_or_needed(self, needed: FeatureRequest, counts: dict[FeatureRequest, int]) -> None:
        """Gather features for all requests, or, if one of their detectors fails, for those with the needed one.

        So only the metrics fail that need the detector that fails. Collective.
        """
        same_call = {request: count for request, count in counts.items() if request.call == needed.call}
        try:
            self._gather(counts)
        except ValueError:
            if len(same_call) == len(counts):
                raise
            if needed not in self._gathered:  # the cache may have had it
                self._gather(same_call)

    def _gather(self, counts: dict[FeatureRequest, int]) -> None:
        """Compute features for requests that differ in nothing but the detector call and the number of images."""
        source = self._source(next(iter(counts)))
        progress = self._progress(f'Features of {source.title}', max(counts.values()), unit='img')
        with _float32_inference(), progress:
            self._gathered |= extract(
                self._world, source, counts, self._detectors, self._dims, self._options.batch, progress
            )
        for request in counts:
            if not request.real:
                continue
            key = self._cache_key(request)
            data = self._gathered[request]
            if request.real and data is not None and self.dataset_sha256(request.images) is not None:
                self._cache.save(key, _to_arrays(data))

    def _source(self, request: FeatureRequest) -> ImageSource:
        if request.real:
            dataset = self.dataset(request.xflip, request.images)
            return RealImages(dataset, self._options.workers, self._world.device)
        return GeneratedImages(self._G, self.dataset(), self._options.seed, self._generator_batch(), self._world.device)

    def picture_pair(self, generated: int, training: int, count: int, xflip: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a generated image and a training image once more, uint8 [3, H, W] on the CPU.

        For the main rank, after the features of both have been gathered.

        Args:
            generated: Index of the generated image.
            training: Index of the training image.
            count: Number of generated images, whose last batch may be short.
            xflip: Whether mirrored training images count, too.
        """
        # The noise in an image belongs to the images that the generator renders at once.
        batch, at_once = self._options.batch, self._generator_batch()
        batch_start = generated // batch * batch
        start = batch_start + (generated - batch_start) // at_once * at_once
        indices = range(start, min(start + at_once, batch_start + batch, count))
        source = GeneratedImages(self._G, self.dataset(), self._options.seed, at_once, self._world.device)
        with _float32_inference():
            rendered = next(source.batches([indices]))[generated - start]
        image, _label = self.dataset(xflip, TRAINING)[training]
        return rendered.cpu(), as_rgb(torch.from_numpy(image[np.newaxis]))[0]

    def image_name(self, training: int, xflip: bool) -> str:
        """Return the file name of a training image, or its number if the dataset class has no names."""
        details = self.dataset(xflip, TRAINING).get_details(training)
        name = excerpt(str(details.get('file_name', details.raw_idx)))
        return f'{name} (mirrored)' if details.xflip or details.get('yflip') else name

    def _path_distances(self, request: PathRequest) -> np.ndarray | None:
        """Collective."""
        detector = self.prepare_detector(VGG_LPIPS)
        dataset = self.dataset()
        batch = max(self._generator_batch() // 2, 1)
        progress = self._progress('Path lengths', request.count, unit='pair')
        with _float32_inference(), progress:
            return gather_distances(
                self._world, request, self._G, detector, dataset, self._options.seed, batch, progress
            )

    def _equivariance_errors(self, request: EquivarianceRequest) -> np.ndarray | None:
        """Collective."""
        dataset = self.dataset()
        batch = max(self._generator_batch() // 2, 1)
        progress = self._progress(f'Images under {request.transformation}', request.count, unit='img')
        with _float32_inference(), progress:
            return gather_errors(self._world, request, self._G, dataset, self._options.seed, batch, progress)

    def _generator_batch(self) -> int:
        """Return how many images the generator renders at once."""
        return images_at_once(self._G.img_resolution, self._options.batch)

    def _progress(self, title: str, total: int, unit: str) -> Progress:
        return Progress(title, total, unit, enabled=self._options.verbose and self._world.is_main)

    def _load_cached(self, request: FeatureRequest) -> bool:
        """Load features from the cache, and return whether they were there. Collective."""
        if self.dataset_sha256(request.images) is None:
            return False
        key, expected = self._cache_key(request), self._expected_arrays(request)
        with failing_together(self._world):
            arrays = self._cache.load(key, expected) if self._world.is_main else None
        is_cached = broadcast_object(self._world, arrays is not None)
        if is_cached:
            self._gathered[request] = None if arrays is None else _from_arrays(arrays)
        return is_cached

    def _expected_arrays(self, request: FeatureRequest) -> dict[str, ArrayKind]:
        """Return what an entry of the cache must consist of. Collective."""
        dim = self._dims[request.call]
        if request.as_moments:
            return {
                'count': ArrayKind((), 'int64'),
                'mean': ArrayKind((dim,), 'float64'),
                'cov': ArrayKind((dim, dim), 'float64'),
            }
        return {'features': ArrayKind((self._num_images(request), dim), request.call.dtype)}

    def _cache_key(self, request: FeatureRequest) -> dict[str, Any]:
        """Collective."""
        return {
            'dataset': self.dataset_sha256(request.images),
            **self._selection(request.images),
            'images': self._num_images(request),
            'xflip': request.xflip,
            **self._vertical(request),
            'detector': self._detectors[request.call.detector].sha256,
            'call': dict(request.call.keywords),
            **({'resize': 'clean'} if request.call.clean_resize else {}),
            'kept': 'moments' if request.as_moments else f'torch.{request.call.dtype}',
            **alpha_entry(self._G.img_channels),
        }

    def _vertical(self, request: FeatureRequest) -> dict[str, Any]:
        """Return the entry of a cache key that says which mirror images count, if some are upside down."""
        kwargs = self._options.dataset_kwargs
        if not request.xflip or not kwargs.get('yflip'):
            return {}
        return {'mirrored': 'xy' if kwargs.get('xflip') else 'y'}

    def _selection(self, images: str) -> dict[str, Any]:
        """Return the entry of a cache key that says which images of the dataset are meant; {} for all. Collective."""
        if images == ALL or (images == TRAINING and len(self.dataset(images=images)) == len(self.dataset())):
            return {}
        kwargs = self._dataset_kwargs(images)
        selection = {name: kwargs[name] for name in SELECTION_KEYWORDS if kwargs.get(name) is not None}
        return {'selected': selection} if selection else {}


def _same_images(a: FeatureRequest, b: FeatureRequest) -> bool:
    return (a.real, a.xflip, a.images) == (b.real, b.xflip, b.images)


def _to_arrays(data: Moments | np.ndarray) -> dict[str, np.ndarray]:
    if isinstance(data, Moments):
        return {'count': np.array(data.count), 'mean': data.mean, 'cov': data.cov}
    return {'features': data}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Moments | np.ndarray:
    if 'features' in arrays:
        return arrays['features']
    return Moments(int(arrays['count']), arrays['mean'], arrays['cov'])


def network_sha256(G: torch.nn.Module) -> str:
    """Return a digest of a network's parameters and buffers, which does not depend on the file that it is from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(misc.named_params_and_buffers(G)):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f'{name} {array.dtype.str} {array.shape}\n'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _float32_inference() -> Iterator[None]:
    """Within this context, networks compute without TensorFloat-32, and with the fastest algorithms of cuDNN."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with precision.tensor_float32(False):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
