"""A training run as the page shows it, from the files of the run alone: nothing of the training is touched."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from dnnlib.text import format_time
from reporting.page import curve_charts
from reporting.pictures import grid_picture
from reporting.run_record import RunRecord, read_run
from studio_server.pictures import encode

_KNOWN_SEC = 2  # for which what was read of a run is used again,
_KNOWN_TIMES = 5  # and so many times as long as reading has taken
_SILENT_SEC = 600  # without a new line of statistics: the run has probably ended
_GRIDS = 2000


class RunReader:
    """Reads runs for all pages: each at most every few seconds, and one at a time, because their files may be large."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    async def describe(self, path: str) -> dict[str, Any]:
        """Return the state of a run, see `describe_run`."""
        async with self._lock:
            use_until, known = self._known.get(path, (0.0, {}))
            start = time.monotonic()
            if start >= use_until:
                known = await asyncio.to_thread(describe_run, path)
                now = time.monotonic()
                self._known[path] = now + _KNOWN_SEC + _KNOWN_TIMES * (now - start), known
            return known


def describe_run(path: str) -> dict[str, Any]:
    """Return the state of a run.

    Raises:
        ValueError: It is not the directory of a run.
    """
    record = read_run(path)
    kimg, total = record.curve('Progress/kimg'), None if record.config is None else record.config.total_kimg
    augment = record.curve('Progress/augment')
    fakes = record.run_dir.fakes_pngs()[-_GRIDS:]
    return {
        'name': record.name,
        'kimg': None if kimg is None else kimg.last,
        'total_kimg': total,
        'augment': None if augment is None else augment.last,
        'time_left': _time_left(record),
        'silent_sec': _silent_sec(record),
        'is_silent': _silent_sec(record) > _SILENT_SEC,
        'fakes': [record.run_dir.fakes_kimg(file) for file in fakes],
        'charts': curve_charts(record),
        'problems': record.problems[:20],
    }


def _time_left(record: RunRecord) -> str:
    """Return how long the run will take to its end, at the speed of its last ticks."""
    kimg, hours = record.curve('Progress/kimg'), record.curve('Timing/total_hours')
    if record.config is None or kimg is None or hours is None or len(kimg.kimg) < 2:
        return ''
    since = max(len(kimg.kimg) - 20, 0)
    passed = kimg.values[-1] - kimg.values[since]
    if passed <= 0 or len(hours.values) <= since:
        return ''
    hours_per_kimg = max(hours.last - hours.values[since], 0) / passed
    return format_time(max(record.config.total_kimg - kimg.last, 0) * hours_per_kimg * 3600)


def _silent_sec(record: RunRecord) -> float:
    try:
        return max(time.time() - os.stat(record.run_dir.stats_jsonl).st_mtime, 0)
    except OSError:
        return 0


def run_picture(path: str, name: str) -> bytes:
    """Return a grid of a run as WebP: 'reals', 'init', or the kimg of a snapshot.

    Raises:
        ValueError: It is damaged.
        OSError: The run has no such grid, or it cannot be read.
    """
    record = read_run(path)
    run_dir = record.run_dir
    files = {'reals': run_dir.reals_png, 'init': run_dir.fakes_init_png}
    if name in files:
        file = files[name]
    else:
        file = run_dir.fakes_png(int(name) * 1000) if name.isdecimal() and len(name) < 10 else run_dir.fakes_init_png
    if not Path(file).resolve().is_relative_to(Path(path).resolve()):
        raise ValueError(f'{os.path.basename(file)} is a link to another folder, and is not shown.')
    picture, _is_small = grid_picture(file, record)
    return encode(picture, 'webp')
