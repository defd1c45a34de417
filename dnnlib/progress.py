"""Progress of long steps: a bar on a terminal; elsewhere nothing, or a line every now and then.

This is the only module that creates tqdm bars, so all bars go to the terminal and none to the log of a run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import tqdm

from dnnlib.terminal import terminal
from dnnlib.text import excerpt, format_time

T = TypeVar('T')

SECONDS_BETWEEN_LINES = 30
_SHORTEST_TRACKED = 10
_MAX_TITLE = 100


def progress_bar(total: float | None, unit: str, title: str | None = None, **options: Any) -> tqdm.tqdm:
    """Create a tqdm bar that is shown on terminals only and disappears when it is closed.

    Args:
        total: Number of units, or None if it is not known yet.
        unit: Name of the unit.
        title: Name of the step, which may be that of a file.
        **options: Further arguments of `tqdm.tqdm`; `disable=False` forces the bar, `disable=True` suppresses it.
    """
    defaults = {'file': terminal(), 'leave': False, 'dynamic_ncols': True, 'disable': None}
    desc = None if title is None else excerpt(title, _MAX_TITLE)
    return tqdm.tqdm(total=total, unit=unit, desc=desc, **{**defaults, **options})


def track(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield the items, with a progress bar if there are many."""
    with progress_bar(total, unit, disable=None if total >= _SHORTEST_TRACKED else True) as bar:
        for item in items:
            yield item
            bar.update()


class Progress:
    """Context manager that shows the progress of a long step: a bar on a terminal, elsewhere a line every 30 seconds.

    Args:
        title: Name of the step.
        total: Number of units. If it is not known yet, `show(done, total)` sets it later.
        unit: Name of the unit.
        enabled: Whether to show anything.
    """

    def __init__(self, title: str, total: int = 0, unit: str = 'img', enabled: bool = True):
        self._title = excerpt(title, _MAX_TITLE)
        self._total, self._unit, self._enabled = total, unit, enabled
        self._start = self._last_line = time.monotonic()
        self._bar = progress_bar(total, f' {unit}', title, disable=None if enabled else True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, done: int, note: str = '') -> None:
        """Show that `done` units are complete, and a note."""
        if not self._bar.disable:
            self._bar.total = self._total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._enabled and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(', '.join(filter(None, [self._line(done), note])), file=sys.stderr, flush=True)

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are complete, for steps whose length is not known in advance."""
        self._total = total
        self.update(done)

    def _line(self, done: int) -> str:
        rate = done / max(time.monotonic() - self._start, 1e-9)
        left = f'{format_time((self._total - done) / rate)} left' if done else 'just started'
        return f'{self._title}: {done:,} of {self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {left}'
