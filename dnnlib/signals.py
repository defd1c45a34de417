"""Signals as requests to a long run: to save, or to save and stop, at the end of the step under way.

| signal | request |
|---|---|
| SIGUSR1 | save and go on |
| SIGTERM, SIGINT (Ctrl-C), SIGHUP (the terminal is gone), SIGUSR2 | save and stop |
| SIGTERM or SIGINT once more, a second later or more | stop at once: KeyboardInterrupt |

What comes within a second counts as one signal: `timeout`, Slurm and terminals send one to a process and to its group.
"""

import contextlib
import enum
import multiprocessing
import os
import signal
import sys
import threading
import time

AGAIN_SEC = 1

# Exit status of a process that a signal has stopped with everything saved: EX_TEMPFAIL, "try again", of sysexits.h.
STOPPED_STATUS = 75


class Request(enum.IntEnum):
    """What a signal asks for; the larger one includes the smaller."""

    NONE = 0
    SAVE = 1
    STOP = 2


def _those_of_this_system(*names):
    return [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has SIGINT and SIGTERM.


SAVE_SIGNALS = _those_of_this_system('SIGUSR1')
STOP_SIGNALS = _those_of_this_system('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2')
ALL_SIGNALS = [*SAVE_SIGNALS, *STOP_SIGNALS]
INSISTENT_SIGNALS = _those_of_this_system('SIGTERM', 'SIGINT')
HANGUP_SIGNALS = _those_of_this_system('SIGHUP')


class SignalWatch:
    """Context in which signals become requests, for `take` to give out. In threads but the main one it sees none.

    Args:
        announce: Whether the first request to stop is answered on the terminal at once.

    Attributes:
        helpers: `Helpers` of this process; within the context they ignore all signals.
    """

    def __init__(self, announce=False):
        self._announce = announce
        self._request = Request.NONE
        self._stop_asked_at = None
        self._leaves_at_once = False
        self.helpers = Helpers()

    def __enter__(self):
        self._pid = os.getpid()
        of_nohup = [number for number in HANGUP_SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
        self._handlers = _handled_by(self._note, but=of_nohup)
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception):
        self.helpers.let_end()
        self._handlers.__exit__(*exception)

    def _note(self, number, _frame):
        if os.getpid() != self._pid:  # A process forked from this one, before it has its own way with signals.
            return
        if number in SAVE_SIGNALS:
            self._request = max(self._request, Request.SAVE)
            return
        now = time.monotonic()
        if self._stop_asked_at is None:
            self._stop_asked_at = now
            self._answer(number)
        elif number in INSISTENT_SIGNALS and now - self._stop_asked_at >= AGAIN_SEC:
            raise KeyboardInterrupt
        self._request = Request.STOP
        if self._leaves_at_once:
            raise SystemExit(STOPPED_STATUS)

    def _answer(self, number):
        if self._announce:
            name = signal.Signals(number).name
            text = f'\n{name}: the run saves and stops after this step; once more to stop at once.\n'
            # Not by print: this may have interrupted one. The terminal may be what is gone.
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.__stderr__.fileno(), text.encode())

    @contextlib.contextmanager
    def leaving_at_once(self, parting_words):
        """Within this context, a request to stop ends the process: SystemExit(STOPPED_STATUS).

        For work that is done anew when the run goes on. `parting_words()` is text to print then, if any.
        """
        self._leaves_at_once = True
        try:
            if self._request == Request.STOP:
                raise SystemExit(STOPPED_STATUS)
            yield
        except SystemExit:
            if text := parting_words():
                print(f'\n{text}', flush=True)
            raise
        finally:
            self._leaves_at_once = False

    def take(self):
        """What was asked for since the last call; a request to stop stays. An orphan is asked to stop."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return Request.STOP
        request = self._request
        if request == Request.SAVE:
            self._request = Request.NONE
        return request


def ignore_sigterm_from_here_on():
    """For a process that is about to end by itself: it is not to be cut short in what it still has to say."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def ignored():
    """Context: processes started within it ignore signals from their first moment on, until they watch for them."""
    return _handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(handler, but=()):
    """Within this context the handler has all signals of this module, but for some. Only in the main thread."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [number for number in ALL_SIGNALS if number not in but]
        previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


class Helpers:
    """For helper processes, such as those that decode images: their parent alone heeds signals, and ends them.

    A signal to the whole process group must not end them while their parent still finishes its step.
    """

    def __init__(self):
        self._parent_pid = os.getpid()
        self._may_end = multiprocessing.RawValue('b', 0)

    def begin(self, *_args):
        """To be called in the helper process, as the `worker_init_fn` of a data loader is.

        Ends it where the parent is gone already: PyTorch's own watch of the parent begins later, and would miss that.
        """
        for number in ALL_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        if os.getppid() != self._parent_pid:
            os._exit(1)

    def _end(self, _number, _frame):
        if self._may_end.value:
            os._exit(0)

    def let_end(self):
        """From here on SIGTERM ends them: that is how a parent that exits ends those that are left."""
        self._may_end.value = 1
