"""How much faster are the metrics' formulas here than straightforward implementations, and how much memory do they use?

One table. For each metric both implementations work on the same features, taking turns, and must agree. The peak memory
of each is measured in a process of its own, beyond the memory of the features. docs/benchmarks.md explains the rows.

    python bench/metrics.py                                  about 10 minutes on 2 cores
    python bench/metrics.py --only=fid,kid                   some sections
    python bench/metrics.py --markdown=docs/benchmarks.md    and update the table in the documentation

NumPy and SciPy take their number of threads from OMP_NUM_THREADS, not from --threads.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import scipy.linalg
import torch

from bench.common import CPU, format_number, format_seconds, measure, run_command, set_up
from bench.options import ResultFiles, benchmark_options, sections_option
from bench.tables import markdown_table, text_table
from dnnlib.cli import Command
from dnnlib.machine import available_cores
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import kid
from metrics.precision_recall import manifold_metrics

SEED = 5
NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # of kid50k_full
NHOOD_SIZE = 3  # of pr50k3_full
IMPLEMENTATIONS = ('straightforward', 'here')
SECTIONS = ('fid', 'kid', 'pr')
HEADINGS = (
    'what',
    'straightforward',
    'here',
    'speedup',
    'memory, straightforward',
    'memory, here',
    'relative difference',
    'runs',
)

# ---------------------------------------------------------------------------------------------------------------------
# Straightforward implementations


def sqrtm_distance(mu_a: np.ndarray, sigma_a: np.ndarray, mu_b: np.ndarray, sigma_b: np.ndarray) -> float:
    """Return the Fréchet distance by its formula, with a matrix square root."""
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b)
    return float(np.real(np.sum((mu_a - mu_b) ** 2) + np.trace(sigma_a + sigma_b - 2 * root)))


def kid_by_subset(real: np.ndarray, fake: np.ndarray, dtype: type[np.floating]) -> float:
    """Return the mean KID of random subsets, from three kernel matrices each."""
    random = np.random.RandomState(SEED)
    size = min(len(real), len(fake), SUBSET_SIZE)
    total = 0.0
    for _ in range(NUM_SUBSETS):
        y: np.ndarray = fake[random.choice(len(fake), size, replace=False)].astype(dtype, copy=False)
        x: np.ndarray = real[random.choice(len(real), size, replace=False)].astype(dtype, copy=False)
        dim = x.shape[1]
        within = (x @ x.T / dim + 1) ** 3 + (y @ y.T / dim + 1) ** 3
        between = (x @ y.T / dim + 1) ** 3
        total += (within.sum() - np.trace(within)) / (size * (size - 1)) - 2 * between.mean()
    return float(total / NUM_SUBSETS)


def precision_recall_by_cdist(real: torch.Tensor, fake: torch.Tensor, rows: int = 10000) -> tuple[float, float]:
    """Return precision and recall, each from distances of its own, in blocks as large as in the published metric."""

    def distances(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.cdist(points, part) for part in others.split(rows)], dim=1)

    def fraction_inside(points: torch.Tensor, manifold: torch.Tensor) -> float:
        radii = [
            distances(part, manifold).float().kthvalue(NHOOD_SIZE + 1).values.half() for part in manifold.split(rows)
        ]
        inside = [(distances(part, manifold) <= torch.cat(radii)).any(dim=1) for part in points.split(rows)]
        return float(torch.cat(inside).float().mean())

    return fraction_inside(fake, real), fraction_inside(real, fake)


# ---------------------------------------------------------------------------------------------------------------------
# Cases


@dataclass(frozen=True)
class Case:
    """Two implementations of a metric; `inputs` creates the arguments of both."""

    section: str
    what: str
    inputs: Callable[[], Sequence[Any]]
    straightforward: Callable[..., object]
    here: Callable[..., object]

    def implementation(self, name: str) -> Callable[..., object]:
        """The implementation of a name in `IMPLEMENTATIONS`."""
        return {'straightforward': self.straightforward, 'here': self.here}[name]


def all_cases(quick: bool) -> list[Case]:
    """Return all cases, in the order of the table."""
    dim, few, many, most = (64, 40, 300, 2500) if quick else (2048, 1000, 10000, 50000)

    def kid_case(count: int, dtype: type) -> Case:
        return Case(
            'kid',
            f'KID, {NUM_SUBSETS} subsets of {min(count, SUBSET_SIZE):,}, {count:,} x {dim}, against {np.dtype(dtype)}',
            lambda: random_features(count, dim),
            lambda real, fake: kid_by_subset(real, fake, dtype),
            lambda real, fake: kid(real, fake, NUM_SUBSETS, SUBSET_SIZE, np.random.RandomState(SEED)),
        )

    def fid_case(count: int) -> Case:
        what = f'FID, moments of {count:,} x {dim}'
        return Case('fid', what, lambda: moments(count, dim), sqrtm_distance, frechet_distance)

    return [
        fid_case(many),
        fid_case(few),
        kid_case(few, np.float32),
        kid_case(many, np.float32),
        kid_case(many, np.float64),
        kid_case(most, np.float32),
        Case(
            'pr',
            f'precision and recall, k = {NHOOD_SIZE}, {many:,} x {dim} float16',
            lambda: [torch.from_numpy(x).half() for x in random_features(many, dim)],
            precision_recall_by_cdist,
            lambda real, fake: tuple(manifold_metrics(real, fake, NHOOD_SIZE).values())[:2],
        ),
    ]


def random_features(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two float32 [count, dim] arrays: non-negative, correlated, from two similar distributions."""
    random = np.random.default_rng(SEED)
    spread = random.standard_normal([64, dim], dtype=np.float32) * 0.08

    def one_array(shift: float) -> np.ndarray:
        x = random.standard_normal([count, dim], dtype=np.float32)
        x *= 0.3
        for rows in np.array_split(x, max(count // 1000, 1)):  # views
            rows += random.standard_normal([len(rows), 64], dtype=np.float32) @ spread + shift
        return np.maximum(x, 0, out=x)

    return one_array(0.2), one_array(0.22)


def moments(count: int, dim: int) -> tuple[np.ndarray, ...]:
    """Return float64 mean, covariance, mean, covariance of `random_features`."""
    pairs = ((x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False, ddof=0)) for x in random_features(count, dim))
    return tuple(itertools.chain(*pairs))


# ---------------------------------------------------------------------------------------------------------------------
# Measurements


@dataclass(frozen=True)
class MetricComparison:
    """One line of the table."""

    section: str
    what: str
    straightforward_sec: list[float]
    here_sec: list[float]
    straightforward_bytes: int
    here_bytes: int
    difference: float  # relative

    @property
    def ratio(self) -> float:
        """How many times as fast as the straightforward implementation."""
        return statistics.median(self.straightforward_sec) / statistics.median(self.here_sec)

    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `HEADINGS`."""
        seconds = [format_seconds(statistics.median(times)) for times in (self.straightforward_sec, self.here_sec)]
        mib = [f'{format_number(count / 2**20)} MiB' for count in (self.straightforward_bytes, self.here_bytes)]
        return self.what, *seconds, f'{self.ratio:.1f}', *mib, f'{self.difference:.1g}', str(len(self.here_sec))


def compare_metric(index: int, case: Case, quick: bool, threads: int, rounds: int) -> MetricComparison:
    """Compare both implementations of the case number `index`: times, peak memory and results."""
    inputs = case.inputs()
    values = {}

    def keep_value(name: str) -> None:
        values[name] = np.array(case.implementation(name)(*inputs))

    runs = {name: lambda name=name: keep_value(name) for name in IMPLEMENTATIONS}
    times = measure(runs, CPU, rounds=rounds, min_rounds=rounds, warm_up=quick)
    difference = np.abs(values['here'] / values['straightforward'] - 1).max()
    return MetricComparison(
        section=case.section,
        what=case.what,
        straightforward_sec=times['straightforward'],
        here_sec=times['here'],
        straightforward_bytes=_peak_bytes_in_new_process(index, 'straightforward', quick, threads),
        here_bytes=_peak_bytes_in_new_process(index, 'here', quick, threads),
        difference=float(difference),
    )


def _peak_bytes_in_new_process(index: int, name: str, quick: bool, threads: int) -> int:
    command = [sys.executable, __file__, f'--peak-of={index}.{name}', f'--threads={threads}']
    return int(run_command(command + ['--quick'] * quick))


def peak_bytes(case: Case, name: str) -> int:
    """Return the peak memory of this process while it computes, beyond what it uses before (Linux only)."""
    inputs = case.inputs()
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _status_bytes('VmRSS')
    case.implementation(name)(*inputs)
    return _status_bytes('VmHWM') - before


def _status_bytes(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


# ---------------------------------------------------------------------------------------------------------------------
# Command


@click.command(cls=Command)
@sections_option(SECTIONS)
@click.option(
    '--rounds', type=click.IntRange(min=1), metavar='N', default=5, show_default=True, help='Runs of each side'
)
@click.option('--peak-of', hidden=True)
@benchmark_options('quick', 'threads', 'json', 'markdown')
def main(
    only: tuple[str, ...],
    rounds: int,
    peak_of: str | None,
    quick: bool,
    threads: int | None,
    json_path: str | None,
    markdown_path: str | None,
) -> None:
    """Compare the metrics' formulas with straightforward implementations: time, memory (on Linux) and results."""
    threads = threads or available_cores()
    if peak_of is not None:
        torch.set_num_threads(threads)
        index, name = peak_of.split('.')
        print(peak_bytes(all_cases(quick)[int(index)], name))
        return
    results = ResultFiles('bench/metrics.py', json_path, markdown_path)
    machine = set_up(CPU, threads)
    rows = list(_comparisons(only, quick, threads, rounds))

    note = 'Tiny sizes (--quick).\n' if quick else ''
    cells = [row.cells() for row in rows]
    print(f'\n{text_table(HEADINGS, cells)}\n\n{note}'.rstrip())
    results.save(
        {'machine': asdict(machine), 'rows': [dict(asdict(row), ratio=row.ratio) for row in rows]},
        f'{machine}.\n{note}\n{markdown_table(HEADINGS, cells)}',
    )


def _comparisons(only: tuple[str, ...], quick: bool, threads: int, rounds: int) -> Iterator[MetricComparison]:
    for index, case in enumerate(all_cases(quick)):
        if case.section in only:
            print(f'{case.what} ...', file=sys.stderr, flush=True)
            yield compare_metric(index, case, quick, threads, rounds)


if __name__ == '__main__':
    main()
