"""How much faster is the mathematics of the metrics than the straightforward way to write it, and in how much memory?

One table. For each metric both ways work on the same features, taking turns, and must agree; the peak memory of each is
measured in a process of its own, beyond what the features take. docs/benchmarks.md explains the rows.

    python bench/metrics.py                                  about 10 minutes on 2 cores
    python bench/metrics.py --only=fid,kid                   parts of it
    python bench/metrics.py --markdown=docs/benchmarks.md    and put the table into the documentation
"""

import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import scipy.linalg
import torch

from bench.common import (
    MarkedSection,
    check_writable,
    format_number,
    format_seconds,
    measure,
    this_machine,
)
from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from dnnlib.machine import available_cores
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import kid
from metrics.precision_recall import manifold_metrics

CPU = torch.device('cpu')
SEED = 5
NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # of kid50k_full
NHOOD_SIZE = 3  # of pr50k3_full
HEADINGS = (
    'what',
    'straightforward',
    'here',
    'times as fast',
    'memory straightforward',
    'memory here',
    'differ by',
    'runs',
)

# ---------------------------------------------------------------------------------------------------------------------
# Straightforward ways


def sqrtm_distance(mu_a: np.ndarray, sigma_a: np.ndarray, mu_b: np.ndarray, sigma_b: np.ndarray) -> float:
    """The formula as it stands."""
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b)
    return float(np.real(np.sum((mu_a - mu_b) ** 2) + np.trace(sigma_a + sigma_b - 2 * root)))


def kid_by_subset(real: np.ndarray, fake: np.ndarray, dtype: type) -> float:
    """The mean over random subsets of the estimate, by three kernel matrices each."""
    random = np.random.RandomState(SEED)
    size = min(len(real), len(fake), SUBSET_SIZE)
    total = 0.0
    for _ in range(NUM_SUBSETS):
        y, x = (sets[random.choice(len(sets), size, replace=False)].astype(dtype, copy=False) for sets in (fake, real))
        dim = x.shape[1]
        within = (x @ x.T / dim + 1) ** 3 + (y @ y.T / dim + 1) ** 3
        between = (x @ y.T / dim + 1) ** 3
        total += (within.sum() - np.trace(within)) / (size * (size - 1)) - 2 * between.mean()
    return float(total / NUM_SUBSETS)


def precision_recall_by_cdist(real: torch.Tensor, fake: torch.Tensor, rows: int = 10000) -> tuple[float, float]:
    """Each direction with its own distances, in blocks as large as those of the published metric."""

    def distances(points, others):
        return torch.cat([torch.cdist(points, part) for part in others.split(rows)], dim=1)

    def share_inside(points, manifold):
        radii = [
            distances(part, manifold).float().kthvalue(NHOOD_SIZE + 1).values.half() for part in manifold.split(rows)
        ]
        inside = [(distances(part, manifold) <= torch.cat(radii)).any(dim=1) for part in points.split(rows)]
        return float(torch.cat(inside).float().mean())

    return share_inside(fake, real), share_inside(real, fake)


# ---------------------------------------------------------------------------------------------------------------------
# Cases


@dataclass(frozen=True)
class Case:
    """Two ways to one number (or several); `features` makes what both are given."""

    section: str
    what: str
    features: Callable[[], tuple]
    straightforward: Callable[..., object]
    here: Callable[..., object]


def cases(quick: bool) -> list[Case]:
    dim, few, many, most = (64, 40, 300, 2500) if quick else (2048, 1000, 10000, 50000)

    def kid_case(count: int, dtype: type) -> Case:
        return Case(
            'kid',
            f'KID, {NUM_SUBSETS} subsets of {min(count, SUBSET_SIZE):,}, {count:,} x {dim}, against {np.dtype(dtype)}',
            lambda: features(count, dim),
            lambda real, fake: kid_by_subset(real, fake, dtype),
            lambda real, fake: kid(real, fake, NUM_SUBSETS, SUBSET_SIZE, np.random.RandomState(SEED)),
        )

    return [
        Case('fid', f'FID, moments of {many:,} x {dim}', lambda: moments(many, dim), sqrtm_distance, frechet_distance),
        Case('fid', f'FID, moments of {few:,} x {dim}', lambda: moments(few, dim), sqrtm_distance, frechet_distance),
        kid_case(few, np.float32),
        kid_case(many, np.float32),
        kid_case(many, np.float64),
        kid_case(most, np.float32),
        Case(
            'pr',
            f'precision and recall, k = {NHOOD_SIZE}, {many:,} x {dim} float16',
            lambda: [torch.from_numpy(x).half() for x in features(many, dim)],
            precision_recall_by_cdist,
            lambda real, fake: tuple(manifold_metrics(real, fake, NHOOD_SIZE).values())[:2],
        ),
    ]


def features(count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [count, dim] twice: not negative, correlated, of two distributions near to each other."""
    random = np.random.default_rng(SEED)
    spread = random.standard_normal([64, dim], dtype=np.float32) * 0.08

    def one_set(shift):
        x = random.standard_normal([count, dim], dtype=np.float32)
        x *= 0.3
        for rows in np.array_split(x, max(count // 1000, 1)):  # views
            rows += random.standard_normal([len(rows), 64], dtype=np.float32) @ spread + shift
        return np.maximum(x, 0, out=x)

    return one_set(0.2), one_set(0.22)


def moments(count: int, dim: int) -> tuple[np.ndarray, ...]:
    """float64: mean, covariance, mean, covariance."""
    return tuple(
        itertools.chain(
            *((x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False, ddof=0)) for x in features(count, dim))
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# Measurements


@dataclass(frozen=True)
class Comparison:
    """A row of the table."""

    section: str
    what: str
    straightforward_sec: list[float]
    here_sec: list[float]
    straightforward_bytes: int
    here_bytes: int
    difference: float  # relative

    @property
    def ratio(self) -> float:
        return statistics.median(self.straightforward_sec) / statistics.median(self.here_sec)

    def cells(self) -> tuple[str, ...]:
        seconds = [format_seconds(statistics.median(times)) for times in (self.straightforward_sec, self.here_sec)]
        mib = [f'{format_number(count / 2**20)} MiB' for count in (self.straightforward_bytes, self.here_bytes)]
        return self.what, *seconds, f'{self.ratio:.1f}', *mib, f'{self.difference:.1g}', str(len(self.here_sec))


def compare(index: int, case: Case, quick: bool, threads: int, rounds: int) -> Comparison:
    given = case.features()
    values = {}

    def keep(name: str, way: Callable[..., object]) -> None:
        values[name] = np.array(way(*given))

    ways = {name: lambda name=name: keep(name, getattr(case, name)) for name in ('straightforward', 'here')}
    times = measure(ways, CPU, rounds=rounds, min_rounds=rounds, warm_up=quick)
    difference = np.abs(values['here'] / values['straightforward'] - 1).max()
    peaks = [_peak_bytes_in_own_process(index, name, quick, threads) for name in ways]
    return Comparison(case.section, case.what, *times.values(), *peaks, float(difference))


def _peak_bytes_in_own_process(index: int, name: str, quick: bool, threads: int) -> int:
    command = [sys.executable, __file__, f'--peak-of={index}.{name}', f'--threads={threads}']
    result = subprocess.run(command + ['--quick'] * quick, capture_output=True, text=True)
    if result.returncode != 0:
        raise click.ClickException(f'{" ".join(command)} ended with status {result.returncode}: {result.stderr}')
    return int(result.stdout)


def peak_bytes(case: Case, name: str) -> int:
    """What this process has at most while it computes, beyond what it has before."""
    given = case.features()
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before = _status_bytes('VmRSS')
    getattr(case, name)(*given)
    return _status_bytes('VmHWM') - before


def _status_bytes(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


# ---------------------------------------------------------------------------------------------------------------------
# Command

SECTIONS = ('fid', 'kid', 'pr')


class SectionNames(click.ParamType):
    name = 'NAME,...'

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in str(value).split(','))
        for name in names:
            if name not in SECTIONS:
                self.fail(
                    f'{name!r} is no section: give some of {", ".join(SECTIONS)}, with commas between.', param, ctx
                )
        return names


@click.command(cls=Command)
@click.option('--only', type=SectionNames(), default=','.join(SECTIONS), show_default=True, help='Sections to run')
@click.option('--quick', is_flag=True, help='Tiny sizes: whether it works, not how fast')
@click.option(
    '--threads',
    type=click.IntRange(min=1),
    metavar='N',
    show_default='one per core',
    help='Threads of PyTorch; NumPy and SciPy take theirs from OMP_NUM_THREADS',
)
@click.option(
    '--rounds', type=click.IntRange(min=1), metavar='N', default=5, show_default=True, help='How often each way is run'
)
@click.option('--json', 'json_path', type=PATH, metavar='FILE', help='Write machine and rows, each run with its time')
@click.option(
    '--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table in this file (docs/benchmarks.md)'
)
@click.option('--peak-of', hidden=True)
def main(
    only: tuple[str, ...],
    quick: bool,
    threads: int | None,
    rounds: int,
    json_path: str | None,
    markdown_path: str | None,
    peak_of: str | None,
) -> None:
    """Compare the metrics' mathematics with straightforward implementations: time, memory (on Linux), results."""
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    if peak_of is not None:
        index, name = peak_of.split('.')
        print(peak_bytes(cases(quick)[int(index)], name))
        return
    check_writable('--json', json_path)
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/metrics.py')
    machine = this_machine(CPU)
    print(machine, flush=True)
    rows = list(_comparisons(only, quick, threads, rounds))

    note = 'These are the tiny sizes of --quick.' if quick else ''
    print('\n'.join(['', *_text_table(rows), '', note]).rstrip())
    if json_path is not None:
        content = {'machine': asdict(machine), 'rows': [dict(asdict(row), ratio=row.ratio) for row in rows]}
        with atomic_file(json_path) as file:
            file.write((json.dumps(content, indent=2) + '\n').encode())
    if markdown is not None:
        markdown.replace('\n'.join([f'{machine}.', note, *[''] * bool(note), *_markdown_table(rows)]))


def _comparisons(only: tuple[str, ...], quick: bool, threads: int, rounds: int) -> Iterator[Comparison]:
    for index, case in enumerate(cases(quick)):
        if case.section in only:
            print(f'{case.what} ...', file=sys.stderr, flush=True)
            yield compare(index, case, quick, threads, rounds)


def _text_table(rows: list[Comparison]) -> list[str]:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        '  '.join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    ]


def _markdown_table(rows: list[Comparison]) -> list[str]:
    lines = [HEADINGS, ('---', *['---:'] * (len(HEADINGS) - 1)), *(row.cells() for row in rows)]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


if __name__ == '__main__':
    main()
