"""How far a long step is: a bar on a terminal, elsewhere a line from time to time; both with rate and time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import tqdm

from dnnlib.util import format_time

SECONDS_BETWEEN_LINES = 30


class Progress:
    """Context manager that shows `update(done)` of `total`.

    Bars go past `sys.stderr` to the terminal itself, as a run's log file would keep every state of them.

    Args:
        what:  the step, as a user would call it.
        total: its length. It may still be unknown: `show(done, total)` sets it.
        unit:  what is counted.
        shown: False keeps silent.
    """

    def __init__(self, what: str, total: int = 0, unit: str = 'img', shown: bool = True):
        self._what, self._total, self._unit, self._shown = what, total, unit, shown
        self._start = self._last_line = time.monotonic()
        terminal = sys.__stderr__
        on_terminal = shown and terminal is not None and terminal.isatty()
        self._bar = (
            tqdm.tqdm(desc=what, total=total, unit=f' {unit}', file=terminal, leave=False, dynamic_ncols=True)
            if on_terminal
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.update(done - self._bar.n)
        elif self._shown and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(done), file=sys.stderr, flush=True)

    def show(self, done: int, total: int) -> None:
        """`update` for steps that know their length themselves."""
        self._total = total
        self.update(done)

    def _line(self, done: int) -> str:
        rate = done / max(time.monotonic() - self._start, 1e-9)
        left = f'{format_time((self._total - done) / rate)} left' if done else 'just begun'
        return f'{self._what}: {done:,} of {self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {left}'
