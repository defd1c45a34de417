"""What the benchmarks share: timing, descriptions of the machine, and rows of results.

A benchmark produces `Row`s: the times of a piece of work and, if it is known, its floor: the time of the least possible
work at the peak rates of `bench.peaks`. `Row.share` is the fraction of that ideal speed that was reached.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click
import torch

from dnnlib.machine import available_cores, processor_name

CPU = torch.device('cpu')
MEMORY_FORMATS = {'NCHW': torch.contiguous_format, 'NHWC': torch.channels_last}

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
    """Return the seconds of each run of each case.

    The cases take turns, so that other load on the machine affects all of them alike.

    Args:
        cases: Functions to time, by name.
        device: Where they compute.
        rounds: Runs of each case.
        min_rounds: Runs of each case that are made even if they exceed the budget.
        budget_sec: No further round begins after this many seconds.
        warm_up: Run each case once before timing it.
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
    """Wait until the device has finished all work submitted to it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def run_command(command: list[str]) -> str:
    """Run a command and return what it prints.

    Raises:
        click.ClickException: The command fails.
    """
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise click.ClickException(f'{" ".join(command)} exited with status {result.returncode}: {result.stderr}')
    return result.stdout


# ---------------------------------------------------------------------------------------------------------------------
# Rows


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: `amount` units of work, done in each of the runs that took `times_sec`."""

    section: str
    what: str
    times_sec: list[float]
    amount: float
    unit: str  # 'images' for a rate in images/s
    floor_sec: float | None = None  # None: there is nothing to compare with

    @property
    def time_sec(self) -> float:
        """The median time."""
        return statistics.median(self.times_sec)

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.amount / self.time_sec

    @property
    def share(self) -> float | None:
        """Fraction of the ideal speed that was reached; 1 means that the time equals the floor."""
        return None if self.floor_sec is None else self.floor_sec / self.time_sec

    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `bench.tables.ROW_HEADINGS`."""
        rate = f'{format_number(self.rate)} {self.unit}/s'
        floor, share = format_floor(self.floor_sec, self.share)
        return self.what, format_seconds(self.time_sec), rate, floor, share, str(len(self.times_sec))

    def to_dict(self) -> dict[str, Any]:
        """Everything about the row, as JSON."""
        return dict(asdict(self), time_sec=self.time_sec, rate=self.rate, share=self.share)


def rows_to_json(machine: Machine, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `--json` writes: the machine and all rows."""
    return {'machine': asdict(machine), 'rows': [row.to_dict() for row in rows]}


def format_number(value: float) -> str:
    """Format a number with three digits, or as a whole number from 100 on."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def format_seconds(seconds: float) -> str:
    """Format a time in the unit that suits it, from seconds to nanoseconds."""
    for factor, unit in ((1, 's'), (1e3, 'ms'), (1e6, 'us')):
        if seconds * factor >= 1:
            return f'{format_number(seconds * factor)} {unit}'
    return f'{seconds * 1e9:.3g} ns'


def format_floor(floor_sec: float | None, share: float | None) -> tuple[str, str]:
    """Format a floor and how close the measurement came to it, as two cells; both are empty without a floor."""
    if floor_sec is None or share is None:
        return '', ''
    return format_seconds(floor_sec), f'{share:.0%}' if share >= 0.1 else f'{share * 100:.2g}%'


# ---------------------------------------------------------------------------------------------------------------------
# Machine


@dataclass(frozen=True)
class Machine:
    """The hardware and software that results come from."""

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
    """Describe this machine and the device that networks run on."""
    cpu = processor_name()
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu if device.type == 'cpu' else device.type
    return Machine(cpu, available_cores(), name, torch.get_num_threads(), f'{platform.system()} {platform.machine()}')


def set_up(device: torch.device = CPU, threads: int | None = None) -> Machine:
    """Set the number of threads (default: one per core) and the seed of PyTorch; print and return the machine."""
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    machine = this_machine(device)
    print(machine, flush=True)
    return machine
