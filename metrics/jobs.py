"""The work of `calc_metrics.py` after its options have been checked: the metrics of one or more networks."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dataset_format.sizes import Resolution
from dnnlib.errors import error_sentence
from dnnlib.streams import lost_output
from dnnlib.text import join_excerpts
from metrics.curves import save_curves
from metrics.evaluation import Evaluation, failure_sentence, report
from metrics.features.cache import StatisticsCache
from metrics.options import MetricOptions
from network_files.reading import open_network
from network_files.snapshots import kimg_of
from torch_utils import inference_graphs
from torch_utils.distributed import World, failing_together
from training.run.run_dir import RunDir


@dataclass(frozen=True)
class MetricJob:
    """A network to measure."""

    network: str  # path or URL
    resolution: Resolution  # of its images
    options: MetricOptions
    run_dir: str | None  # where the results are stored, or None to only print them
    trust_pickle: bool = False
    takes_transform: bool = True  # as `generation.image_transforms.is_supported` says


def run(world: World, jobs: Sequence[MetricJob], metrics: Sequence[str], with_curves: bool) -> None:
    """Compute and report all metrics of all networks. Collective: every rank must call this.

    Args:
        world: Ranks.
        jobs: The networks.
        metrics: Names of metrics.
        with_curves: Plot the metrics of each run directory over its snapshots.

    Raises:
        ValueError: Some metrics cannot be computed. All others have been reported.
        OSError: The results cannot be printed.
    """
    results: list[tuple[MetricJob, dict[str, Any]]] = []
    failures = Failures(world, num_metrics=len(jobs) * len(metrics))
    cache = StatisticsCache()
    for job in jobs:
        results += [(job, result) for result in _run_job(world, job, metrics, cache, failures)]
    if world.is_main:
        if len(results) > 1:
            print(table(jobs, results), file=sys.stderr, flush=True)
        if with_curves:
            _plot_curves(results)
        lost = lost_output()
        if lost is not None:
            raise lost
    failures.raise_if_any()


def _run_job(
    world: World, job: MetricJob, metrics: Sequence[str], cache: StatisticsCache, failures: Failures
) -> list[dict[str, Any]]:
    """Report each result as soon as it is known, and return all of them; [] except on the main rank."""
    results = []
    with failing_together(world), _out_of_memory_explained(job):
        G = open_network(job.network, trust=job.trust_pickle, keys=['G_ema'])['G_ema'].to(world.device)
    evaluation = Evaluation(metrics, world, G, job.options, cache)
    for name in metrics:
        with (
            failures.noted(name, job.network),
            _out_of_memory_explained(job),
            inference_graphs.replaying(job.options.cuda_graphs),
        ):
            result = evaluation.compute(name)
            with failing_together(world):
                if result is not None:
                    report(result, job.run_dir, job.network)
                    results.append(result)
                    gallery_png = evaluation.save_gallery(result, job.run_dir, job.network)
                    if gallery_png is not None:
                        print(f'Wrote {gallery_png}', file=sys.stderr, flush=True)
    evaluation.close()
    return results


class Failures:
    """The metrics that cannot be computed, which do not keep others from being computed.

    Args:
        world: Ranks. All of them note the same failures.
        num_metrics: Number of all metrics of all networks.
    """

    def __init__(self, world: World, num_metrics: int):
        self._world, self._num_metrics = world, num_metrics
        self._sentences: dict[str, str] = {}

    @contextlib.contextmanager
    def noted(self, metric: str, network: str) -> Iterator[None]:
        """Within this context, an error is only noted, and printed if there are other metrics.

        Of several processes, only those errors are noted that all of them have; others are raised, because the
        processes may no longer be at the same place.
        """
        try:
            yield
        except Exception as error:
            has_sentence = isinstance(error, (ValueError, OSError)) and error_sentence(error) is not None
            if self._world.is_distributed and (not has_sentence or isinstance(error, OutOfMemory)):
                raise
            if self._num_metrics == 1 and not has_sentence:
                raise
            sentence = failure_sentence(error)
            self._sentences[f'{metric} of {network}'] = sentence
            if self._world.is_main and self._num_metrics > 1:
                print(f'Metric {metric} of {network} cannot be computed: {sentence}', file=sys.stderr, flush=True)

    def raise_if_any(self) -> None:
        """Raise ValueError if any metric has failed: with its sentence, or with the names of several."""
        if len(self._sentences) == 1:
            raise ValueError(*self._sentences.values())
        if self._sentences:
            raise ValueError(
                f'{len(self._sentences)} of {self._num_metrics} metrics could not be computed (see above): '
                f'{join_excerpts(self._sentences, limit=10)}.'
            )


class OutOfMemory(ValueError):
    """The memory of a GPU is too small; perhaps only that of one process."""


@contextlib.contextmanager
def _out_of_memory_explained(job: MetricJob) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(
            f'The GPU does not have enough memory for {job.options.batch} images at once. Use a smaller --batch.'
        ) from error


def table(jobs: Sequence[MetricJob], results: Sequence[tuple[MetricJob, dict[str, Any]]]) -> str:
    """Return all values as text: a line for each network, or for each value if there is only one network."""
    values: dict[str, dict[str, str]] = {job.network: {} for job in jobs}
    for job, result in _kernel_distances_first(results):
        intervals = result.get('intervals', {})
        values[job.network] |= {name: _cell(value, intervals.get(name)) for name, value in result['results'].items()}
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [['network', *columns]]
    for network, row in values.items():
        rows.append([network, *(row.get(name, '') for name in columns)])
    if len(values) == 1:
        rows = [list(row) for row in zip(*rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows
    ]
    return '\n'.join('  '.join(line) for line in lines)


def _cell(value: float, interval: dict[str, float] | None) -> str:
    return f'{value:.5g}' if interval is None else f'{value:.5g} [{interval["low"]:.3g}, {interval["high"]:.3g}]'


def _kernel_distances_first(
    results: Sequence[tuple[MetricJob, dict[str, Any]]],
) -> list[tuple[MetricJob, dict[str, Any]]]:
    """Move KID before all others if intervals were asked for, as for small datasets, where FID is biased most."""

    def is_other(item: tuple[MetricJob, dict[str, Any]]) -> bool:
        return not (item[0].options.bootstrap and re.match('(clean)?k(id|d-)', item[1]['metric']))

    return sorted(results, key=is_other)


def _plot_curves(results: Sequence[tuple[MetricJob, dict[str, Any]]]) -> None:
    """Write a PNG file for each metric of each run directory."""
    points: dict[tuple[str, str], list[tuple[int, dict[str, float]]]] = {}
    for job, result in results:
        kimg = kimg_of(job.network)
        if job.run_dir is not None and kimg is not None:
            points.setdefault((job.run_dir, result['metric']), []).append((kimg, result['results']))
    for (run_dir, metric), curve in points.items():
        curve.sort(key=lambda point: point[0])
        values_by_name = {name: [values[name] for _kimg, values in curve] for name in curve[0][1]}
        path = RunDir(run_dir).metric_png(metric)
        save_curves(path, metric, [kimg for kimg, _values in curve], values_by_name)
        print(f'Wrote {path}', file=sys.stderr)
