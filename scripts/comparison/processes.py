"""The processes of a comparison: `train.py` and `calc_metrics.py` for each run, several runs at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.machine import processor_name
from dnnlib.signals import STOPPED_STATUS
from network_files.snapshots import complete_snapshots, kimg_of
from scripts.comparison.methods import Method
from scripts.comparison.results import Run, Settings
from training.run.run_dir import RunDir, list_run_dirs

ROOT = Path(__file__).resolve().parents[2]
STATISTICS = {'signs': 'Loss/signs/real', 'p': 'Progress/augment'}  # name in the results → name in stats.jsonl


class Stopped(Exception):
    """The processes were told to stop; what they have done so far is saved."""


class Failed(Exception):
    """A process failed; the message is a sentence for the user."""


@dataclass(frozen=True)
class Plan:
    """How to make one run."""

    settings: Settings
    method: Method
    seed: int
    folder: Path  # of this run alone
    data: str
    detectors: str | None  # folder
    snapshots: int  # during the training
    threads: int  # of each process

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f'{self.method.name}, seed {self.seed}'

    def training_command(self, dry_run: bool = False) -> list[str]:
        """Return the command that starts the training, or continues it."""
        subset = self.settings.subset
        return [
            *(sys.executable, str(ROOT / 'train.py')),
            *(f'--outdir={self.folder}', f'--data={self.data}', f'--seed={self.seed}'),
            *([] if subset is None else [f'--subset={subset}']),
            *self.settings.train_options,
            *self.method.options,
            f'--kimg={self.settings.kimg:g}',
            f'--tick={self.settings.kimg / self.snapshots:g}',
            *('--snap=1', '--keep-states=1', '--metrics=none', '--resume-run=latest'),
            *(['--dry-run'] if dry_run else []),
        ]

    def metrics_command(self, networks: Iterable[Path], metrics: Sequence[str]) -> list[str]:
        """Return the command that computes metrics of networks."""
        return [
            *(sys.executable, str(ROOT / 'calc_metrics.py'), f'--metrics={",".join(metrics)}', f'--data={self.data}'),
            *([] if self.detectors is None else [f'--detectors={self.detectors}']),
            *(f'--network={path}' for path in networks),
        ]

    def run_dir(self) -> RunDir:
        """Return the directory of the run, which has begun."""
        return RunDir(list_run_dirs(str(self.folder))[0])


class Processes:
    """Start processes from several threads, and stop all of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """Tell all processes to save what they have, and start no others."""
        with self._lock:
            self._is_stopping = True
            for process in self._running:
                process.terminate()

    def output_of(self, command: Sequence[str], threads: int, log: Path) -> str:
        """Run a command and return what it prints. What it says on stderr is appended to a file.

        Raises:
            Stopped: The process, or this object, was told to stop.
            Failed: The command failed.
        """
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'a', encoding='utf-8') as messages:
            with self._lock:
                if self._is_stopping:
                    raise Stopped
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    text=True,
                    encoding='utf-8',
                    errors='replace',
                )
                self._running.add(process)
            try:
                output, _ = process.communicate()
            finally:
                with self._lock:
                    self._running.discard(process)
        if process.returncode != 0:
            if self._is_stopping or process.returncode == STOPPED_STATUS:
                raise Stopped
            raise Failed(f'{Path(command[1]).name} ended with status {process.returncode}; its messages are in {log}.')
        return output


# ---------------------------------------------------------------------------------------------------------------------
# One run


def check(plan: Plan, processes: Processes) -> None:
    """Check the options of a run by a dry run.

    Raises:
        Stopped: The processes were told to stop.
        Failed: The options cannot be used.
    """
    log = plan.folder / 'messages.txt'
    start = log.stat().st_size if log.exists() else 0
    try:
        processes.output_of(plan.training_command(dry_run=True), plan.threads, log)
    except Failed as error:
        with open(log, encoding='utf-8') as file:
            file.seek(start)
            lines = file.read().splitlines()
        raise Failed(lines[-1] if lines else str(error)) from error


def make_run(plan: Plan, processes: Processes) -> Run:
    """Train, or continue the training, and measure; return the outcome.

    Raises:
        Stopped: The processes were told to stop.
        Failed: One of them failed.
    """
    log = plan.folder / 'messages.txt'
    processes.output_of(plan.training_command(), plan.threads, log)
    networks = complete_snapshots(plan.run_dir().path)
    networks = [path for path in networks if kimg_of(path)] or networks[-1:]
    *earlier, last = networks
    metrics = list(dict.fromkeys([*plan.settings.metrics, plan.settings.curve_metric]))
    output = processes.output_of(plan.metrics_command([last], metrics), plan.threads, log)
    if earlier:
        command = plan.metrics_command(earlier, [plan.settings.curve_metric])
        output += processes.output_of(command, plan.threads, log)
    kimg, seconds, statistics = _statistics(plan.run_dir(), networks)
    return Run(
        method=plan.method.name,
        options=list(plan.method.options),
        seed=plan.seed,
        kimg=kimg,
        results=_results(output, [path.name for path in networks]),
        statistics=statistics,
        sec_per_kimg=seconds,
        machine=f'{processor_name()}, {plan.threads} thread{"" if plan.threads == 1 else "s"}',
    )


def _results(output: str, names: Sequence[str]) -> dict[str, list[float | None]]:
    """Return the curve of each value over the snapshots of these names, from the lines of `calc_metrics.py`."""
    curves: dict[str, list[float | None]] = {}
    for line in output.splitlines():
        result: dict[str, Any] = json.loads(line)
        position = names.index(Path(result['snapshot_pkl']).name)
        for name, value in result['results'].items():
            curves.setdefault(name, [None] * len(names))[position] = value
    return curves


def _statistics(
    run_dir: RunDir, networks: Sequence[Path]
) -> tuple[list[float], float | None, dict[str, list[float | None]]]:
    """Return the thousands of images of each snapshot, seconds per thousand, and the statistics at the snapshots."""
    rows = [json.loads(line) for line in Path(run_dir.stats_jsonl).read_text(encoding='utf-8').splitlines()]
    by_kimg = {int(row['Progress/kimg']['mean']): row for row in rows}
    found = [by_kimg.get(kimg_of(path) or 0, {}) for path in networks]
    kimg = [float(kimg_of(path) or 0) for path in networks]
    statistics = {
        name: [row[stored]['mean'] if row.get(stored, {}).get('num') else None for row in found]
        for name, stored in STATISTICS.items()
    }
    seconds = [row['Timing/sec_per_kimg']['mean'] for row in rows[1:]]  # the first tick has a single batch
    return kimg, sum(seconds) / len(seconds) if seconds else None, statistics


def seconds_as_text(start: float) -> str:
    """Return the time since `start`, from `time.monotonic`."""
    return f'{(time.monotonic() - start) / 60:.0f} minutes'
