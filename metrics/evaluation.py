"""Metrics of networks: computed by `Evaluation`, reported as published, and watched over a training.

Results are the published ones (`results`, `metric`, `total_time`, `total_time_str`, `num_gpus`, `snapshot_pkl`,
`timestamp`), with what the numbers come from beside them.
"""

from __future__ import annotations

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
from dnnlib.cli import error_sentence
from dnnlib.files import os_errors_named
from dnnlib.text import format_time
from metrics import metric_main, names
from metrics.features import detectors
from metrics.features.cache import StatisticsCache
from metrics.features.extraction import Call
from metrics.features.image_sources import transparency_of
from metrics.features.samples import Samples, network_sha256
from metrics.options import Settings
from torch_utils.distributed import World, failing_together


class Evaluation:
    """Metrics of one network; images and features are shared among them.

    Args:
        metrics:  names of all that are going to be computed.
        world:    ranks; all of them do the same.
        G:        generator in eval mode on `world.device`.
        settings: see there.
        cache:    of features of real images; one that lives on keeps what cannot be written.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        world: World,
        G: torch.nn.Module,
        settings: Settings,
        cache: StatisticsCache | None = None,
    ):
        self._world, self._settings, self._G = world, settings, G
        wanted = [need for name in metrics for need in metric_main.needs_of(names.parse(name), settings).values()]
        self._samples = Samples(world, G, settings, wanted, cache or StatisticsCache())

    def compute(self, name: str) -> dict[str, Any] | None:
        """Collective: one metric.

        Returns:
            On the main rank a dict with the published keys `results` (name → value), `metric`, `total_time` (seconds),
            `total_time_str`, `num_gpus`, `snapshot_pkl` (None) and `timestamp`, and where the numbers come from:
            `num_images`, `seed`, `batch`, `detector`, `dataset_sha256`, `network_sha256`, `versions`; `bootstrap` where
            an interval was asked for. None elsewhere.

        Raises:
            ValueError: a sentence (of the detector, the dataset or the images).
        """
        start = time.monotonic()
        metric = names.parse(name)
        data, counts = metric_main.gather_data(metric, self._samples)
        detector = self._samples.prepare(metric_main.CALLS[metric.family])
        dataset_sha256 = self._samples.dataset_sha256()
        with failing_together(self._world):
            if not self._world.is_main:
                return None
            inputs = metric_main.Inputs(metric, data, self._samples)
            reported = metric.reported_name(detector.label)
            values = metric_main.compute_values(inputs)
            result = {'results': {f'{reported}{ending}': value for ending, value in values.items()}, 'metric': reported}
            if self._settings.bootstrap and metric_main.has_interval(metric):
                result['bootstrap'] = metric_main.interval(inputs)
            seconds = time.monotonic() - start
            return {
                **result,
                'total_time': seconds,
                'total_time_str': format_time(seconds),
                'num_gpus': self._world.size,
                'snapshot_pkl': None,
                'timestamp': time.time(),
                'num_images': counts,
                'seed': self._settings.seed,
                'batch': self._settings.batch,
                'detector': {'name': detector.name, 'sha256': detector.sha256},
                **transparency_of(self._G.img_channels),
                'dataset_sha256': dataset_sha256,
                'network_sha256': network_sha256(self._G),
                'versions': _versions(),
            }

    def close(self) -> None:
        """Close the dataset."""
        self._samples.close()


def _versions() -> dict[str, str]:
    return {
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
        'scipy': scipy.__version__,
    }


def check_detectors(metrics: Iterable[str], folder: str | None, resolution: Resolution, download: bool = True) -> None:
    """Load each detector that the metrics need and ask it, on the CPU; DetectorError where that fails.

    Args:
        metrics:    their names.
        folder:     of `--detectors`, None for the published ones.
        resolution: of the images they will see.
        download:   False leaves out those that a download would bring.
    """
    calls: dict[str, set[Call]] = {}
    for name in metrics:
        call = metric_main.CALLS[names.parse(name).family]
        calls.setdefault(call.detector, set()).add(call)
    for detector_name, its_calls in calls.items():
        if not download and folder is None and detectors.locate(detector_name) is None:
            continue
        detector = detectors.load(detector_name, folder=folder, verbose=True)
        for call in its_calls:
            detectors.check(detector, dict(call.keywords), resolution, 'cpu')


# ---------------------------------------------------------------------------------------------------------------------
# Reporting


def report(result: dict[str, Any], run_dir: str | None = None, snapshot_pkl: str | None = None) -> str:
    """Complete a result with its network's file, print it as a line, append it to the run's file.

    Args:
        result:       of `Evaluation.compute`.
        run_dir:      folder of the training run, where `metric-<name>.jsonl` goes to. None: print only.
        snapshot_pkl: the network's file, as the user named it.

    Returns:
        The line.

    Raises:
        OSError: the file cannot be written; it is then as it was before.
    """
    if run_dir is not None and snapshot_pkl is not None:
        snapshot_pkl = os.path.relpath(snapshot_pkl, run_dir)
    line = json.dumps({**result, 'snapshot_pkl': snapshot_pkl})
    print(line, flush=True)
    if run_dir is not None:
        append_line(os.path.join(run_dir, f'metric-{result["metric"]}.jsonl'), line)
    return line


def append_line(path: str, line: str) -> None:
    """Add a line of text to a file, or leave the file as it was."""
    with os_errors_named(path), open(path, 'ab') as file:
        length = file.tell()
        try:
            file.write(f'{line}\n'.encode())
            file.flush()
        except OSError:
            file.truncate(length)
            raise


# ---------------------------------------------------------------------------------------------------------------------
# In a training run


class SnapshotMetrics:
    """Metrics of each snapshot of a training run, which goes on whatever happens to them.

    Args:
        metrics:  their names.
        settings: see there.
    """

    def __init__(self, metrics: Sequence[str], settings: Settings):
        self._metrics, self._settings = list(metrics), settings
        self._cache = StatisticsCache()

    def __call__(self, world: World, G: torch.nn.Module, run_dir: str, snapshot_pkl: str) -> dict[str, float]:
        """Collective: compute and report them all for the generator `G`; on the main rank the values by name."""
        values: dict[str, float] = {}
        evaluation = Evaluation(self._metrics, world, G, self._settings, self._cache)
        for name in self._metrics:
            try:
                result = evaluation.compute(name)
                if result is not None:
                    # The mark tells a run that goes on which lines it is going to write again.
                    report({**result, 'in_training': True}, run_dir, snapshot_pkl)
                    values |= result['results']
            except Exception as error:  # whatever it is, it must not end the training
                if world.is_main:
                    _say_what_failed(name, snapshot_pkl, error)
        evaluation.close()
        return values


def _say_what_failed(name: str, snapshot_pkl: str, error: Exception) -> None:
    sentence = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
    if sentence is None:
        traceback.print_exception(error)
        sentence = f'{type(error).__name__}: {error}'
    print(f'Metric {name} of {snapshot_pkl} failed, and training goes on. {sentence}', file=sys.stderr, flush=True)
