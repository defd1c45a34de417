"""Several networks, one after the other: what `calc_metrics.py` does once its options are checked."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metrics.curves import save_curves
from metrics.evaluation import Evaluation, report
from metrics.features.cache import StatisticsCache
from metrics.options import Settings
from network_files.reading import open_network
from torch_utils.distributed import World, failing_together


@dataclass(frozen=True)
class Job:
    """A network to measure. `run_dir` gets the results; None: they are printed only."""

    network: str  # path or URL
    size: tuple[int, int]  # height and width of its images
    settings: Settings
    run_dir: str | None
    trust_pickle: bool = False


def run(world: World, jobs: Sequence[Job], metrics: Sequence[str], with_curves: bool) -> None:
    """Compute and report all metrics of all networks; every rank calls this.

    Args:
        world:       ranks.
        jobs:        the networks.
        metrics:     names.
        with_curves: draw the metrics of each run directory over its snapshots.

    Raises:
        ValueError: a sentence; what was computed before is reported.
    """
    results: list[tuple[Job, dict[str, Any]]] = []
    cache = StatisticsCache()
    for job in jobs:
        with _memory_as_sentence(job):
            results += [(job, result) for result in _run_job(world, job, metrics, cache)]
    if world.is_main:
        if len(results) > 1:
            print(table(jobs, results), file=sys.stderr, flush=True)
        if with_curves:
            _draw(results)


def _run_job(world: World, job: Job, metrics: Sequence[str], cache: StatisticsCache) -> list[dict[str, Any]]:
    """The results, on the main rank, each reported as soon as it is known."""
    results = []
    with failing_together(world):
        G = open_network(job.network, trust=job.trust_pickle)['G_ema'].to(world.device)
    evaluation = Evaluation(metrics, world, G, job.settings, cache)
    for name in metrics:
        result = evaluation.compute(name)
        with failing_together(world):
            if result is not None:
                report(result, job.run_dir, job.network)
                results.append(result)
    evaluation.close()
    return results


@contextlib.contextmanager
def _memory_as_sentence(job: Job) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            f'The memory of the GPU is too small for {job.settings.batch} images at once: use a smaller --batch.'
        ) from error


def kimg_of(network: str) -> int | None:
    """The number in `network-snapshot-000200.pkl`: thousands of images that the network was trained on."""
    match = re.fullmatch(r'network-snapshot-(\d+)\.pkl', os.path.basename(network))
    return int(match[1]) if match else None


def table(jobs: Sequence[Job], results: Sequence[tuple[Job, dict[str, Any]]]) -> str:
    """All values as text: a line for each network, or for each value where there is one network only."""
    values: dict[str, dict[str, float]] = {job.network: {} for job in jobs}
    for job, result in results:
        values[job.network] |= result['results']
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [['network', *columns]]
    for network, row in values.items():
        rows.append([network, *(f'{row[name]:.5g}' if name in row else '' for name in columns)])
    if len(values) == 1:
        rows = [list(row) for row in zip(*rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows
    ]
    return '\n'.join('  '.join(line) for line in lines)


def _draw(results: Sequence[tuple[Job, dict[str, Any]]]) -> None:
    """`metric-<name>.png` beside each `metric-<name>.jsonl`."""
    pictures: dict[tuple[str, str], list[tuple[int, dict[str, float]]]] = {}
    for job, result in results:
        kimg = kimg_of(job.network)
        if job.run_dir is not None and kimg is not None:
            pictures.setdefault((job.run_dir, result['metric']), []).append((kimg, result['results']))
    for (run_dir, metric), points in pictures.items():
        points.sort(key=lambda point: point[0])
        path = os.path.join(run_dir, f'metric-{metric}.png')
        curves = {name: [values[name] for _kimg, values in points] for name in points[0][1]}
        save_curves(path, metric, [kimg for kimg, _values in points], curves)
        print(f'Wrote {path}', file=sys.stderr)
