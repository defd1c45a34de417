"""What the benchmarks share: timing, the machine, and rows of results as a table, Markdown or JSON.

A benchmark makes `Row`s. Each has the median time of a piece of work and, where there is one, its floor: the time that
the least possible work would take at the peak rates of `bench.peaks`. `share` is what part of that ideal was reached.
"""

import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import torch

from dnnlib.files import atomic_file
from dnnlib.machine import available_cores, processor_name

HEADINGS = ('what', 'time', 'rate', 'floor', 'share', 'runs')


# ---------------------------------------------------------------------------------------------------------------------
# Timing


def measure(
    cases: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int = 7,
    min_rounds: int = 3,
    budget_sec: float = 10,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each run of each case.

    The cases take turns, so that whatever else the machine does meanwhile falls on all of them. Once `budget_sec` are
    spent, no round begins beyond the first `min_rounds`. `warm_up` runs each case once more before.
    """
    if warm_up:
        for run in cases.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in cases}
    deadline = time.perf_counter() + budget_sec
    for done in range(rounds):
        if done >= min_rounds and time.perf_counter() > deadline:
            break
        for name, run in cases.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return times


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


# ---------------------------------------------------------------------------------------------------------------------
# Rows


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: `amount` of `unit` done in each of the runs that took `times_sec`."""

    section: str
    what: str
    times_sec: list[float]
    amount: float
    unit: str  # as in 'images', of which the rate is images/s
    floor_sec: float | None = None  # None: nothing to compare with

    @property
    def time_sec(self) -> float:
        return statistics.median(self.times_sec)

    @property
    def rate(self) -> float:
        return self.amount / self.time_sec

    @property
    def share(self) -> float | None:
        """Part of the ideal speed that was reached; 1 is the floor itself."""
        return None if self.floor_sec is None else self.floor_sec / self.time_sec

    def cells(self) -> tuple[str, ...]:
        """What the table shows, in the order of HEADINGS."""
        floor = '' if self.floor_sec is None else format_seconds(self.floor_sec)
        share = '' if self.share is None else format_share(self.share)
        rate = f'{format_number(self.rate)} {self.unit}/s'
        return self.what, format_seconds(self.time_sec), rate, floor, share, str(len(self.times_sec))

    def to_dict(self) -> dict:
        return dict(asdict(self), time_sec=self.time_sec, rate=self.rate, share=self.share)


def format_number(value: float) -> str:
    """Three digits, or all of a large number."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def format_seconds(seconds: float) -> str:
    for factor, unit in ((1, 's'), (1e3, 'ms'), (1e6, 'us')):
        if seconds * factor >= 1:
            return f'{format_number(seconds * factor)} {unit}'
    return f'{seconds * 1e9:.3g} ns'


def format_share(share: float) -> str:
    return f'{share:.0%}' if share >= 0.1 else f'{share * 100:.2g}%'


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns, with a blank line between sections."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def aligned(line):
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        return '  '.join([line[0].ljust(widths[0]), *numbers]).rstrip()

    text = [aligned(HEADINGS)]
    for _section, members in itertools.groupby(rows, key=lambda row: row.section):
        text += ['', *(aligned(row.cells()) for row in members)]
    return '\n'.join(text)


def markdown_table(rows: Sequence[Row]) -> str:
    lines = [('section', *HEADINGS), ('---', '---', *['---:'] * (len(HEADINGS) - 1))]
    lines += [(row.section, *row.cells()) for row in rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# Machine


@dataclass(frozen=True)
class Machine:
    """Where figures come from; without it they say nothing."""

    cpu: str
    cores: int
    device: str
    threads: int
    system: str
    python: str = field(default_factory=platform.python_version)
    torch: str = torch.__version__

    def __str__(self) -> str:
        networks_on = '' if self.device == self.cpu else f'; networks on {self.device}'
        threads = '1 thread' if self.threads == 1 else f'{self.threads} threads'
        return (
            f'{self.cpu}, {self.cores} cores, {threads}{networks_on}; {self.system}, '
            f'Python {self.python}, PyTorch {self.torch}'
        )


def this_machine(device: torch.device) -> Machine:
    cpu = processor_name()
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu if device.type == 'cpu' else device.type
    return Machine(cpu, available_cores(), name, torch.get_num_threads(), f'{platform.system()} {platform.machine()}')


def json_text(machine: Machine, rows: Sequence[Row]) -> str:
    return json.dumps({'machine': asdict(machine), 'rows': [row.to_dict() for row in rows]}, indent=2) + '\n'


def check_writable(option: str, path: str | None) -> None:
    """Find out before the benchmark, not after it, that its results have no place to go."""
    if path is None:
        return
    file = Path(path)
    folder = file.absolute().parent
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.BadParameter(
            f'{path!r} cannot be written: give a file in an existing folder that you may write.',
            param_hint=f"'{option}'",
        )


class MarkedSection:
    """The lines of a Markdown file between `<!-- NAME begin -->` and `<!-- NAME end -->`, which a program rewrites.

    Raises ValueError where the file has not exactly one such pair of lines.
    """

    def __init__(self, path: str, name: str):
        self.path = Path(path)
        lines = self.path.read_text(encoding='utf-8').splitlines()
        begin, end = f'<!-- {name} begin -->', f'<!-- {name} end -->'
        if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
            raise ValueError(
                f'{path} has no place for the table: give it the lines {begin!r} and {end!r}, in this '
                'order and once each.'
            )
        self._before = lines[: lines.index(begin) + 1]
        self._after = lines[lines.index(end) :]

    def replace(self, text: str) -> None:
        lines = [*self._before, '', *text.splitlines(), '', *self._after]
        with atomic_file(self.path) as file:
            file.write(('\n'.join(lines) + '\n').encode())
