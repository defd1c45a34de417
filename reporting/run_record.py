"""Read what a report shows of a run. A file that is missing or damaged becomes a sentence in `problems`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dataset_conversion.checking.files import CheckFolder, default_folder, read_findings
from dnnlib.errors import error_sentence
from dnnlib.files import open_regular, read_file
from dnnlib.json_input import MAX_BYTES, parse_json
from dnnlib.text import excerpt
from network_files.snapshots import kimg_of
from training.config import TrainingConfig
from training.run import provenance
from training.run.run_dir import RunDir

MAX_POINTS = 500  # of a curve
MAX_METRIC_FILES = 50

_MAX_FILE_BYTES = 2**28  # of stats.jsonl or the values of a metric; the rest is not read
_MAX_LINE_BYTES = 2**20
_MAX_LINES = 2**20  # of a file; a run of 25 million images has 6,000
_MAX_NAMES = 300  # of statistics
_KIMG = 'Progress/kimg'
_MAX_NUMBER = 1e30  # larger ones are not drawn

T = TypeVar('T')


@dataclass
class Curve:
    """Values over the course of a run.

    Args:
        kimg: Thousands of images shown, ascending.
        values: Finite numbers.
        low: Lower ends of the intervals, or None for values without one.
        high: Upper ends.
    """

    kimg: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)

    def add(self, kimg: float, value: float, low: float | None = None, high: float | None = None) -> None:
        """Append a point."""
        self.kimg.append(kimg)
        self.values.append(value)
        self.low.append(low)
        self.high.append(high)

    @property
    def last(self) -> float:
        """The last value."""
        return self.values[-1]

    def last_mean(self, share: float = 0.25) -> float:
        """Return the mean of the last values."""
        number = max(round(len(self.values) * share), 1)
        return sum(self.values[-number:]) / number


@dataclass
class RunRecord:
    """What is known of a run.

    Args:
        run_dir: Its directory.
        config: Its configuration, or None if that cannot be read.
        starts: Entries of `provenance.json`, oldest first.
        statistics: Curves by the name of the statistic.
        metrics: Curves by the name of the value.
        findings: What a check of the dataset has found, or None without one.
        contact_sheet: The picture that belongs to it, if it exists.
        problems: Sentences about files that could not be read.
    """

    run_dir: RunDir
    config: TrainingConfig | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Curve] = field(default_factory=dict)
    metrics: dict[str, Curve] = field(default_factory=dict)
    findings: dict[str, Any] | None = None
    contact_sheet: Path | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the directory."""
        return os.path.basename(os.path.abspath(self.run_dir.path))

    def curve(self, name: str) -> Curve | None:
        """Return a statistic, or None if it has no values."""
        curve = self.statistics.get(name)
        return curve if curve is not None and curve.values else None

    @contextlib.contextmanager
    def noting_problems(self, missing_is_one: bool = True) -> Iterator[None]:
        """Within this context, a file that cannot be read is noted, and the context ends.

        Args:
            missing_is_one: Whether a file that does not exist is worth a note.
        """
        try:
            yield
        except FileNotFoundError as error:
            if missing_is_one:
                self.problems.append(f'{os.path.basename(str(error.filename))} does not exist.')
        except (OSError, ValueError) as error:
            self.problems.append(excerpt(error_sentence(error) or str(error), 400))


def read_run(path: str) -> RunRecord:
    """Read the directory of a run.

    Raises:
        ValueError: It is not the directory of a run.
    """
    run_dir = RunDir(path)
    if not os.path.isdir(path):
        raise ValueError(f'{path} is not a folder; give the directory of a training run.')
    if not (os.path.exists(run_dir.options_json) or os.path.exists(run_dir.stats_jsonl)):
        name = os.path.basename(run_dir.options_json)
        raise ValueError(f'{path} is not the directory of a training run: it has no {name}.')
    record = RunRecord(run_dir)
    with record.noting_problems():
        content = read_file(run_dir.options_json, MAX_BYTES)
        record.config = TrainingConfig.from_json(content, os.path.basename(run_dir.options_json))
    record.starts = provenance.read(path)
    with record.noting_problems():
        record.statistics = _read_statistics(record)
    for metric_jsonl in run_dir.metric_jsonls()[:MAX_METRIC_FILES]:
        with record.noting_problems():
            _read_metric(record, metric_jsonl)
    if record.config is not None:
        _read_findings(record, record.config.training_set_kwargs['path'])
    return record


def _read_findings(record: RunRecord, data: str) -> None:
    """Read the check of the dataset, if there is one beside it."""
    with record.noting_problems(missing_is_one=False):
        folder = CheckFolder(default_folder(data))
        record.findings = read_findings(folder.findings_json)
        if folder.contact_sheet_png.is_file():
            record.contact_sheet = folder.contact_sheet_png


# ---------------------------------------------------------------------------------------------------------------------
# Lines


def lines_of(record: RunRecord, path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of JSON lines. Lines that are not valid are counted and noted."""
    name, num_bad, num_bytes, num_lines = os.path.basename(path), 0, 0, 0
    with open_regular(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
            num_bytes, num_lines = num_bytes + len(line), num_lines + 1
            if num_bytes > _MAX_FILE_BYTES or num_lines > _MAX_LINES:
                limit = f'{_MAX_FILE_BYTES:,} bytes' if num_bytes > _MAX_FILE_BYTES else f'{_MAX_LINES:,} lines'
                record.problems.append(f'{name} is longer than {limit}; the rest is not shown.')
                break
            try:
                content = parse_json(line, name, allow_nonfinite=True)
            except ValueError:
                content = None
            if isinstance(content, dict):
                yield content
            else:
                num_bad += 1
    if num_bad:
        record.problems.append(f'{name} has {num_bad:,} lines that are incomplete or not valid; they are left out.')


def number(value: Any) -> float | None:
    """Return a finite number of a size that can be drawn, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= _MAX_NUMBER else None  # NaN is not; integers may be too large for a float


def _read_statistics(record: RunRecord) -> dict[str, Curve]:
    """Return the curves of all statistics. Long ones are thinned out while they are read."""
    rows: list[tuple[float, dict[str, float]]] = []
    latest: tuple[float, dict[str, float]] | None = None
    step, num_seen, num_lost = 1, 0, 0
    for line in lines_of(record, record.run_dir.stats_jsonl):
        means = {name: item.get('mean') for name, item in list(line.items())[:_MAX_NAMES] if isinstance(item, dict)}
        values = {name: value for name, mean in means.items() if (value := number(mean)) is not None}
        num_lost += len(means) - len(values)
        if _KIMG not in values:
            continue
        if num_seen % step == 0:
            rows.append((values[_KIMG], values))
            latest = None
        else:
            latest = (values[_KIMG], values)
        num_seen += 1
        if len(rows) >= 2 * MAX_POINTS:
            rows, step = rows[::2], 2 * step
    if latest is not None:
        rows.append(latest)
    if num_lost:
        name = os.path.basename(record.run_dir.stats_jsonl)
        record.problems.append(f'{name} has {num_lost:,} values that are not finite numbers; they are not drawn.')
    curves: dict[str, Curve] = {}
    for kimg, values in sorted(rows, key=lambda row: row[0]):
        for name, value in values.items():
            if name in curves or len(curves) < _MAX_NAMES:
                curves.setdefault(name, Curve()).add(kimg, value)
    return curves


def _read_metric(record: RunRecord, path: Path) -> None:
    """Add the curves of the values in a metric's file; of several lines for a snapshot, the last counts."""
    points: dict[str, dict[int, tuple[float, float | None, float | None]]] = {}
    for line in lines_of(record, path):
        results, network = line.get('results'), line.get('snapshot_pkl')
        kimg = kimg_of(network) if isinstance(network, str) else None
        if not isinstance(results, dict) or kimg is None:
            continue
        interval = line.get('bootstrap')
        interval = interval if isinstance(interval, dict) else {}
        for index, (name, item) in enumerate(list(results.items())[:10]):
            value = number(item)
            if value is not None and len(points) < _MAX_NAMES:
                ends = (number(interval.get('low')), number(interval.get('high'))) if index == 0 else (None, None)
                points.setdefault(excerpt(name, 100), {})[kimg] = (value, *ends)
    for name, by_kimg in points.items():
        curve = record.metrics.setdefault(name, Curve())
        ordered = sorted(by_kimg.items())
        for kimg, (value, low, high) in thinned(ordered, MAX_POINTS):
            curve.add(kimg, value, low, high)


def thinned(items: list[T], most: int) -> list[T]:
    """Return at most so many items at equal distances, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
