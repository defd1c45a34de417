"""Signals as requests to a long run: to save, or to save and stop, at the end of the current step.

| signal | request |
|---|---|
| SIGUSR1 | save and continue |
| SIGTERM, SIGINT (Ctrl-C), SIGHUP (the terminal was closed), SIGUSR2 | save and stop |
| SIGTERM or SIGINT again, at least a second later | stop immediately: KeyboardInterrupt |

Signals within one second count as one: `timeout`, Slurm and terminals send a signal both to a process and to its group.
"""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from types import FrameType

REPEAT_SEC = 1
"""A signal that follows the first request to stop after at least this many seconds stops the process immediately."""

STOPPED_STATUS = 75
"""Exit status of a process that a signal stopped with everything saved: EX_TEMPFAIL, "try again", of sysexits.h."""

SignalHandler = Callable[[int, FrameType | None], object]


class Request(enum.IntEnum):
    """What a signal requests; a larger value includes the smaller ones."""

    NONE = 0
    SAVE = 1
    STOP = 2


def _supported(*names: str) -> list[signal.Signals]:
    """Return the signals that this system has; Windows has SIGINT and SIGTERM only."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


SAVE_SIGNALS = _supported('SIGUSR1')
STOP_SIGNALS = _supported('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2')
ALL_SIGNALS = [*SAVE_SIGNALS, *STOP_SIGNALS]
REPEATABLE_SIGNALS = _supported('SIGTERM', 'SIGINT')
HANGUP_SIGNALS = _supported('SIGHUP')


class SignalWatch:
    """Context manager that collects signals as requests, which `take` returns.

    Outside of the main thread it never sees a signal.

    Args:
        announce: Whether to confirm the first request to stop on the terminal.

    Attributes:
        workers: `WorkerSignals` for worker processes; within the context they ignore all signals.
    """

    def __init__(self, announce: bool = False):
        self._announce = announce
        self._request = Request.NONE
        self._first_stop_time: float | None = None
        self._stops_immediately = False
        self._pid = 0
        self._handlers: AbstractContextManager[None] = contextlib.nullcontext()
        self.workers = WorkerSignals()

    def __enter__(self) -> SignalWatch:
        self._pid = os.getpid()
        ignored_by_nohup = [number for number in HANGUP_SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
        self._handlers = _handled_by(self._handle, excluded=ignored_by_nohup)
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.workers.allow_termination()
        self._handlers.__exit__(None, None, None)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process forked from this one that has not set its own handlers yet
            return
        if number in SAVE_SIGNALS:
            self._request = max(self._request, Request.SAVE)
            return
        now = time.monotonic()
        if self._first_stop_time is None:
            self._first_stop_time = now
            self._confirm(number)
        elif number in REPEATABLE_SIGNALS and now - self._first_stop_time >= REPEAT_SEC:
            raise KeyboardInterrupt
        self._request = Request.STOP
        if self._stops_immediately:
            raise SystemExit(STOPPED_STATUS)

    def _confirm(self, number: int) -> None:
        if self._announce and sys.__stderr__ is not None:
            name = signal.Signals(number).name
            text = f'\n{name}: saving and stopping after this step; repeat SIGTERM or Ctrl-C to stop immediately.\n'
            # Not with print, which the signal may have interrupted. The terminal may no longer exist.
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.__stderr__.fileno(), text.encode())

    @contextlib.contextmanager
    def stopping_immediately(self, message: Callable[[], str]) -> Iterator[None]:
        """Within this context, a request to stop ends the process with SystemExit(STOPPED_STATUS).

        For work that is repeated when the run resumes.

        Args:
            message: Called when the process stops; returns text to print, or ''.
        """
        self._stops_immediately = True
        try:
            if self._request == Request.STOP:
                raise SystemExit(STOPPED_STATUS)
            yield
        except SystemExit:
            if text := message():
                print(f'\n{text}', flush=True)
            raise
        finally:
            self._stops_immediately = False

    def take(self) -> Request:
        """Return the request since the last call. A request to stop remains; orphaned processes always get one."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return Request.STOP
        request = self._request
        if request == Request.SAVE:
            self._request = Request.NONE
        return request


def ignore_sigterm() -> None:
    """Ignore SIGTERM from now on, for a process that is about to exit and must not be cut off while it reports why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def ignored() -> AbstractContextManager[None]:
    """Return a context in which signals are ignored, also by processes started in it until they set handlers."""
    return _handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(handler: SignalHandler | signal.Handlers, excluded: Collection[int] = ()) -> Iterator[None]:
    """Set the handler of all signals of this module except `excluded`. Does nothing outside of the main thread."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [number for number in ALL_SIGNALS if number not in excluded]
        previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


class WorkerSignals:
    """Signal handling of worker processes, such as those of a data loader: only their parent reacts and ends them.

    A signal to the whole process group must not end the workers while their parent still finishes its step.
    """

    def __init__(self) -> None:
        self._parent_pid = os.getpid()
        self._may_terminate = multiprocessing.RawValue('b', 0)

    def init_worker(self, *_args: object) -> None:
        """Set the handlers in a worker process; usable as the `worker_init_fn` of a data loader.

        The process exits if its parent is already gone: PyTorch starts to watch the parent later and would miss that.
        """
        for number in ALL_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        if os.getppid() != self._parent_pid:
            os._exit(1)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        if self._may_terminate.value:
            os._exit(0)

    def allow_termination(self) -> None:
        """From now on SIGTERM ends the workers. A parent that exits sends it to workers that still run."""
        self._may_terminate.value = 1
