"""The metrics of a network: `Evaluation` computes them, `report` writes them, `SnapshotMetrics` follows a training run.

Results have the keys of the published code (`results`, `metric`, `total_time`, `total_time_str`, `num_gpus`,
`snapshot_pkl`, `timestamp`), and others that record where the numbers come from.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy
import torch

from dataset_format.sizes import Resolution
from dnnlib.errors import error_sentence
from dnnlib.files import os_errors_named
from dnnlib.text import format_time, message_line
from metrics.features import detectors
from metrics.features.cache import StatisticsCache
from metrics.features.detectors import Detector
from metrics.features.feature_requests import HELD_OUT, DetectorCall, num_copies
from metrics.features.image_sources import MetricError, alpha_entry
from metrics.features.samples import Samples, network_sha256
from metrics.gallery import save_gallery
from metrics.metric_inputs import MetricInputs
from metrics.metric_spec import INTERVAL_COVERAGE, Measured, MetricName, Pair
from metrics.metric_table import TableEntry, find_metric, with_held_out
from metrics.options import MetricOptions, resamples_for
from network_files.snapshots import kimg_of
from torch_utils.distributed import World, failing_together
from training.config import TrainingConfig
from training.run.run_dir import RunDir


class Evaluation:
    """The metrics of one network, which share images and features.

    Args:
        metrics: Names of all metrics that will be computed.
        world: Ranks. All of them make the same calls.
        G: Generator in eval mode on `world.device`.
        options: How the metrics are computed.
        cache: Cache for the features of real images. Several evaluations can share one.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        world: World,
        G: Any,
        options: MetricOptions,
        cache: StatisticsCache | None = None,
    ):
        self._world, self._options, self._G = world, options, G
        found = [find_metric(name) for name in metrics]
        requests = [request for entry, name in found for request in entry.needs.requests(name, options).values()]
        self._samples = Samples(world, G, options, requests, cache or StatisticsCache())
        self._pairs: dict[str, list[Pair]] = {}

    def compute(self, metric: str) -> dict[str, Any] | None:
        """Compute one metric. Collective: every rank must call this.

        Returns:
            On the main rank, a dict with the keys of the published code: `results` (name → value), `metric`,
            `total_time` (seconds), `total_time_str`, `num_gpus`, `snapshot_pkl` (None) and `timestamp`. It also has
            `intervals` of values that have one, `bootstrap` if an interval was requested, `pairs` of images that look
            like copies, and what the numbers depend on: `num_images`, `seed`, `batch`, `detector` (None if the metric
            needs none), `dataset_sha256`, `held_out_sha256` if images were held out, `network_sha256` and `versions`.
            On other ranks, None.

        Raises:
            ValueError: The detector, the dataset or the images cannot be used.
        """
        start = time.monotonic()
        entry, name = find_metric(metric)
        data, num_images = self._gather_data(entry, name)
        call = entry.needs.call
        detector = None if call is None else self._samples.prepare_detector(call)
        dataset_sha256 = self._samples.dataset_sha256()
        uses_held_out = name.images == HELD_OUT or 'held_out' in data
        held_out = {'held_out_sha256': self._samples.dataset_sha256(HELD_OUT)} if uses_held_out else {}
        with failing_together(self._world):
            if not self._world.is_main:
                return None
            inputs = MetricInputs(name, data, self._options, self._world.device)
            result, pairs = _compute_values(entry, inputs, detector)
            if pairs:
                self._pairs[result['metric']] = pairs
                result['pairs'] = [self._describe_pair(pair) for pair in pairs]
            seconds = time.monotonic() - start
            return {
                **result,
                'total_time': seconds,
                'total_time_str': format_time(seconds),
                'num_gpus': self._world.size,
                'snapshot_pkl': None,
                'timestamp': time.time(),
                'num_images': num_images,
                'seed': self._options.seed,
                'batch': self._options.batch,
                **_detector_entries(detector, self._G.img_channels),
                'dataset_sha256': dataset_sha256,
                **held_out,
                'network_sha256': network_sha256(self._G),
                'versions': _versions(),
            }

    def save_gallery(self, result: dict[str, Any], run_dir: str | None, snapshot_pkl: str) -> str | None:
        """Write the images that a result names in `pairs` to a picture beside the run's files for metrics.

        For the main rank, after `compute`.

        Args:
            result: Result of `compute`.
            run_dir: Directory of the training run; None writes nothing.
            snapshot_pkl: File of the network.

        Returns:
            Path of the picture, or None without pairs.
        """
        pairs = self._pairs.get(result['metric'])
        if run_dir is None or not pairs:
            return None
        path = RunDir(run_dir).metric_gallery_png(result['metric'], kimg_of(snapshot_pkl))
        count, xflip = result['num_images']['fake'], self._is_mirrored()
        images = [self._samples.picture_pair(pair.generated, pair.training, count, xflip) for pair in pairs]
        save_gallery(path, images, [pair.ratio for pair in pairs])
        return path

    def close(self) -> None:
        """Close the dataset."""
        self._samples.close()

    def _is_mirrored(self) -> bool:
        return num_copies(self._options.dataset_kwargs) > 1

    def _describe_pair(self, pair: Pair) -> dict[str, Any]:
        name = self._samples.image_name(pair.training, self._is_mirrored())
        return {'generated': pair.generated, 'training': name, 'ratio': pair.ratio}

    def _gather_data(self, entry: TableEntry, name: MetricName) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the data of a metric by part, and how many images each part is from. Collective."""
        requests = entry.needs.requests(name, self._options)
        num_images = {part: self._samples.count(request) for part, request in requests.items()}
        min_images = entry.needs.min_images(name)
        for part, count in num_images.items():
            if count < min_images:
                kind = {'real': 'real', 'held_out': 'held-out'}.get(part, 'generated')
                raise MetricError(f'{name.text} needs {min_images} {kind} images or more, but there are {count}.')
        return {part: self._samples.get(request) for part, request in requests.items()}, num_images


def _compute_values(
    entry: TableEntry, inputs: MetricInputs, detector: Detector | None
) -> tuple[dict[str, Any], list[Pair]]:
    """Return the beginning of a result, and pairs of images.

    It consists of `results`, `metric`, `intervals` and details that the metric has, and `bootstrap` if requested.
    """
    measured = entry.compute(inputs)
    if not isinstance(measured, Measured):
        measured = Measured(measured)
    for ending, value in measured.values.items():
        if not np.isfinite(value):
            raise MetricError(f'{inputs.name.text}{ending} is {value} for these images, not a finite number.')
    label = None if detector is None else detector.label
    reported_name = inputs.name.with_label(label, entry.stand_in_prefix or inputs.name.prefix)
    results = {f'{reported_name}{ending}': float(value) for ending, value in measured.values.items()}
    result: dict[str, Any] = {'results': results, 'metric': reported_name}
    intervals = {
        f'{reported_name}{ending}': {'low': float(low), 'high': float(high), 'coverage': INTERVAL_COVERAGE}
        for ending, (low, high) in measured.intervals.items()
    }
    if inputs.options.bootstrap and entry.interval is not None:
        result['bootstrap'] = entry.interval(inputs)
        intervals[reported_name] = {key: result['bootstrap'][key] for key in ('low', 'high', 'coverage')}
    if intervals:
        result['intervals'] = intervals
    elif inputs.options.bootstrap:
        result['no_interval'] = 'There are too few images for an interval.'
    return {**result, **measured.details}, measured.pairs


def _detector_entries(detector: Detector | None, num_channels: int) -> dict[str, Any]:
    """Return what results say about the detector, and about the images that it saw."""
    if detector is None:
        return {'detector': None}
    return {'detector': {'name': detector.name, 'sha256': detector.sha256}, **alpha_entry(num_channels)}


def _versions() -> dict[str, str]:
    return {
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
        'scipy': scipy.__version__,
    }


def check_detectors(metrics: Iterable[str], folder: str | None, resolution: Resolution, download: bool = True) -> None:
    """Load each detector that the metrics need, on the CPU, and try each call that they make.

    Args:
        metrics: Names of metrics.
        folder: Folder with detectors, or None for the published ones.
        resolution: Size of the images that the detectors will see.
        download: False skips detectors that would have to be downloaded.

    Raises:
        DetectorError: A detector cannot be found, loaded or called.
    """
    calls: dict[str, set[DetectorCall]] = {}
    for metric in metrics:
        call = find_metric(metric)[0].needs.call
        if call is not None:
            calls.setdefault(call.detector, set()).add(call)
    for name, detector_calls in calls.items():
        if not download and folder is None and name in detectors.URLS and detectors.locate(name) is None:
            continue
        detector = detectors.load(name, folder=folder, verbose=True)
        for call in detector_calls:
            detectors.check(detector, call, resolution, 'cpu')


# ---------------------------------------------------------------------------------------------------------------------
# Reporting


def report(result: dict[str, Any], run_dir: str | None = None, snapshot_pkl: str | None = None) -> str:
    """Add the network's file to a result, print it as a line, and append it to the run's file for the metric.

    Args:
        result: Result of `Evaluation.compute`.
        run_dir: Directory of the training run, or None to only print the result.
        snapshot_pkl: File of the network, as the user named it.

    Returns:
        The line.

    Raises:
        OSError: The file cannot be written; it is left unchanged.
    """
    if run_dir is not None and snapshot_pkl is not None:
        snapshot_pkl = os.path.relpath(snapshot_pkl, run_dir)
    line = json.dumps({**result, 'snapshot_pkl': snapshot_pkl})
    print(line, flush=True)
    if run_dir is not None:
        append_line(RunDir(run_dir).metric_jsonl(result['metric']), line)
    return line


def append_line(path: str, line: str) -> None:
    """Append a line of text to a file; if that fails, leave the file unchanged."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, 'not a regular file', path)
    with os_errors_named(path), open(path, 'ab') as file:
        length = file.tell()
        try:
            file.write(f'{line}\n'.encode())
            file.flush()
        except OSError:
            file.truncate(length)
            raise


# ---------------------------------------------------------------------------------------------------------------------
# During training


class SnapshotMetrics:
    """Computes metrics for each snapshot of a training run. A metric that fails does not end the run.

    Args:
        metrics: Names of metrics.
        options: How the metrics are computed.
    """

    def __init__(self, metrics: Sequence[str], options: MetricOptions):
        self._metrics, self._options = list(metrics), options
        self._cache = StatisticsCache()

    @classmethod
    def of_training(cls, config: TrainingConfig) -> SnapshotMetrics:
        """Return the metrics of a run. If images are held out, distances are also measured to them."""
        options = MetricOptions(
            config.training_set_kwargs,
            config.validation_set_kwargs,
            bootstrap=resamples_for(config.training_set_kwargs.get('max_size'), config.validation_set_kwargs),
            seed=config.random_seed,
            detectors=config.detectors,
            workers=config.data_loader_kwargs.get('num_workers', 0),
        )
        metrics = config.metrics if config.validation_set_kwargs is None else with_held_out(config.metrics)
        return cls(metrics, options)

    def __call__(self, world: World, G: Any, run_dir: str, snapshot_pkl: str) -> dict[str, float]:
        """Compute and report all metrics of a generator. Collective: every rank must call this.

        Args:
            world: Ranks.
            G: Generator in eval mode on `world.device`.
            run_dir: Directory of the training run.
            snapshot_pkl: File of the generator.

        Returns:
            On the main rank, the values by name. On other ranks, an empty dict.
        """
        values: dict[str, float] = {}
        evaluation = Evaluation(self._metrics, world, G, self._options, self._cache)
        for metric in self._metrics:
            try:
                result = evaluation.compute(metric)
                if result is not None:
                    # The mark tells a resumed run which lines it will write again.
                    report({**result, 'in_training': True}, run_dir, snapshot_pkl)
                    values |= result['results']
                    evaluation.save_gallery(result, run_dir, snapshot_pkl)
            except Exception as error:  # No failure of a metric may end the training.
                if world.is_main:
                    _report_failure(metric, snapshot_pkl, error)
        evaluation.close()
        return values


def _report_failure(metric: str, snapshot_pkl: str, error: Exception) -> None:
    message = failure_sentence(error)
    print(f'Metric {metric} of {snapshot_pkl} failed; training continues. {message}', file=sys.stderr, flush=True)


def failure_sentence(error: Exception) -> str:
    """Return the message of an error for the user; if it has none, print its traceback, and return what it is."""
    message = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
    if message is None:
        traceback.print_exception(error)
        message = f'{type(error).__name__}: {error}'
    return message_line(message)
