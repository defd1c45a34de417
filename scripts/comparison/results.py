"""The numbers of a comparison: what is stored of each run, and their means and intervals over seeds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnlib.files import atomic_file
from dnnlib.json_input import read_json
from dnnlib.schema import Integer, ListOf, MapOf, Number, Optional, Record, Text
from dnnlib.text import excerpt
from scripts.comparison.methods import NAME_PATTERN

CONFIDENCE = 0.95
LOGARITHMIC = ('fid', 'fd-', 'kid', 'kd-')
"""Beginnings of the names of distances. Their spread grows with their size, so their logarithms are averaged."""

_MAX_RUNS, _MAX_SNAPSHOTS = 10_000, 10_000
_FINITE = Number(-1e30, 1e30)
_SHA256 = Text(64, r'[0-9a-f]{64}', 'a SHA-256 of 64 hexadecimal digits')
_OPTIONS = ListOf(Text(1000), max_length=100)
_CURVE = ListOf(Optional(_FINITE), max_length=_MAX_SNAPSHOTS, min_length=1)
_SETTINGS = {
    'data': Text(1000),
    'data_sha256': _SHA256,
    'subset': Optional(Integer(1, 10**9)),
    'kimg': Number(0, 1e9, above_low=True),
    'train_options': _OPTIONS,
    'metrics': ListOf(Text(100), max_length=100, min_length=1),
    'curve_metric': Text(100),
    'detectors': MapOf(Text(100), max_length=10),
}
_RUN = {
    'method': Text(40, NAME_PATTERN, 'the name of a method'),
    'options': _OPTIONS,
    'seed': Integer(0, 2**31 - 1),
    'kimg': ListOf(Number(0, 1e9), max_length=_MAX_SNAPSHOTS, min_length=1),
    'results': MapOf(_CURVE, max_length=100),
    'statistics': MapOf(_CURVE, max_length=100),
    'sec_per_kimg': Optional(Number(0, 1e9)),
    'machine': Text(1000),
}
_COMPARISON = Record(
    {'settings': Record(_SETTINGS, required=_SETTINGS), 'runs': ListOf(Record(_RUN, required=_RUN), _MAX_RUNS)},
    required=['settings', 'runs'],
)


# ---------------------------------------------------------------------------------------------------------------------
# What is stored


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison have in common; see the options of `scripts/compare_methods.py`."""

    data: str  # name of the dataset
    data_sha256: str
    subset: int | None
    kimg: float
    train_options: list[str]
    metrics: list[str]
    curve_metric: str
    detectors: dict[str, str]  # label, and the SHA-256 of each file; {} stands for the published ones


@dataclass(frozen=True)
class Run:
    """What is stored of one run. Its curves are over the snapshots at `kimg`; None: not measured there."""

    method: str
    options: list[str]
    seed: int
    kimg: list[float]
    results: dict[str, list[float | None]]  # by name of the value, such as fd-cifar5k_full
    statistics: dict[str, list[float | None]]  # of the training: signs of D's outputs for reals, p of ADA
    sec_per_kimg: float | None  # of the training, whatever else the machine did
    machine: str

    @property
    def key(self) -> tuple[str, int]:
        """Method and seed."""
        return self.method, self.seed

    def last(self, name: str) -> float | None:
        """Return a value at the end of the training."""
        return self.results[name][-1] if name in self.results else None


@dataclass
class Comparison:
    """The settings of a comparison, and the runs that are complete."""

    settings: Settings
    runs: list[Run]

    def add(self, run: Run) -> None:
        """Add a run, in place of one with the same method and seed."""
        self.runs = [other for other in self.runs if other.key != run.key] + [run]

    def merge(self, other: Comparison, path: str) -> None:
        """Add the runs of another comparison that this one does not have.

        Raises:
            ValueError: The other one, which was read from `path`, has other settings, or a method with other options.
        """
        for item in dataclasses.fields(Settings):
            mine, theirs = (getattr(comparison.settings, item.name) for comparison in (self, other))
            if mine != theirs and item.name != 'data':
                raise ValueError(
                    f'{path} has other settings: {item.name} is {excerpt(theirs)}, not {excerpt(mine)}. Only runs '
                    'with equal settings can be compared.'
                )
        known = {run.key for run in self.runs}
        for run in other.runs:
            self.check_options(run.method, run.options, path)
            if run.key not in known:
                self.runs.append(run)

    def check_options(self, method: str, options: Sequence[str], where: str) -> None:
        """Check that a method of this comparison has the same options elsewhere.

        Raises:
            ValueError: It has not.
        """
        stored = next((run.options for run in self.runs if run.method == method), None)
        if stored is not None and stored != list(options):
            raise ValueError(
                f'{where}: {method} has the options {excerpt(" ".join(options))!r}, but there are runs of it with '
                f'{excerpt(" ".join(stored))!r}. Use another name.'
            )

    def methods(self) -> list[str]:
        """Return the names of the methods, in the order of their first run."""
        return list(dict.fromkeys(run.method for run in self.runs))

    def runs_of(self, method: str) -> list[Run]:
        """Return the runs of a method, in the order of their seeds."""
        return sorted((run for run in self.runs if run.method == method), key=lambda run: run.seed)

    def value_names(self) -> list[str]:
        """Return the names of all values that were measured at the end of the training."""
        names = (name for run in self.runs for name in run.results if run.last(name) is not None)
        return list(dict.fromkeys(names))

    def save(self, path: str | os.PathLike) -> None:
        """Write the comparison as JSON."""
        runs = sorted(self.runs, key=lambda run: run.key)
        content = {'settings': dataclasses.asdict(self.settings), 'runs': [dataclasses.asdict(run) for run in runs]}
        with atomic_file(path) as file:
            file.write((json.dumps(content, indent=1) + '\n').encode())


def read_comparison(path: str | os.PathLike) -> Comparison:
    """Read what `Comparison.save` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file; one sentence that begins with its path.
    """
    content = read_json(path)
    _COMPARISON.check(content, os.fspath(path))
    comparison = Comparison(Settings(**content['settings']), [])
    for values in content['runs']:
        run = Run(**values)
        curves: list[tuple[str, list[Any]]] = [*run.results.items(), *run.statistics.items()]
        for name, curve in curves:
            if len(curve) != len(run.kimg):
                raise ValueError(
                    f'{os.fspath(path)}: {excerpt(name)} of {run.method} with seed {run.seed} has {len(curve)} values '
                    f'for {len(run.kimg)} snapshots.'
                )
        comparison.check_options(run.method, run.options, os.fspath(path))
        comparison.add(run)
    return comparison


# ---------------------------------------------------------------------------------------------------------------------
# Means and intervals


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and the limits of its interval if there is any information about its spread."""

    mean: float
    low: float | None
    high: float | None


def estimates(values: Mapping[str, Sequence[float]], is_logarithmic: bool) -> dict[str, Estimate]:
    """Return the mean of each method with a 95 % interval.

    Few seeds say little about the spread of one method, so the spread is assumed to be that of all methods together:
    the standard deviation is pooled, with as many degrees of freedom as there are runs minus methods, and the intervals
    follow Student's t distribution. They end at 0 if no value is negative.

    Args:
        values: For each method its values, one for each seed.
        is_logarithmic: Average the logarithms of values, which are positive.
    """
    import scipy.stats

    forward = np.log if is_logarithmic else np.asarray
    backward = math.exp if is_logarithmic else float
    logs = {method: np.asarray(forward(np.asarray(numbers, np.float64))) for method, numbers in values.items()}
    freedom = sum(len(x) - 1 for x in logs.values())
    if freedom == 0:
        return {method: Estimate(backward(x.mean()), None, None) for method, x in logs.items()}
    deviation = math.sqrt(sum(float(((x - x.mean()) ** 2).sum()) for x in logs.values()) / freedom)
    lowest = 0.0 if all((x >= 0).all() for x in map(np.asarray, values.values())) else -math.inf
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    found = {}
    for method, x in logs.items():
        half = quantile * deviation / math.sqrt(len(x))
        mean, low, high = (backward(x.mean() + shift) for shift in (0, -half, half))
        found[method] = Estimate(mean, max(low, lowest), high)
    return found


def estimates_of(comparison: Comparison, name: str) -> dict[str, Estimate]:
    """Return the estimates of a value at the end of the training, for each method that has it."""
    values = {
        method: [value for run in comparison.runs_of(method) if (value := run.last(name)) is not None]
        for method in comparison.methods()
    }
    values = {method: numbers for method, numbers in values.items() if numbers}
    return estimates(values, is_logarithmic(name, (number for numbers in values.values() for number in numbers)))


def is_logarithmic(name: str, values: Iterable[float]) -> bool:
    """Return whether the logarithms of a value are averaged: those of distances, as long as none is 0 or negative."""
    return name.startswith(LOGARITHMIC) and all(value > 0 for value in values)
