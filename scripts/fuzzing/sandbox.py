"""Run a reader on hostile files and detect the rules that it breaks.

A reader must open a file or refuse it with its own error. Python's audit hooks detect that something is imported,
compiled, executed, started, opened or deleted meanwhile; a timer detects that it hangs; the peak memory of a separate
process shows how much it allocates.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.text import MAX_LINE

OPENED, REFUSED = 'opened', 'refused'
_FAULT = 'FAULT'

FORBIDDEN_EVENTS = re.compile(
    r'import|exec|compile|open|marshal\.|pickle\.find_class|code\.__new__|function\.__new__|os\.|subprocess\.|shutil\.'
    r'|socket\.|ctypes\.|urllib\.|tempfile\.|glob\.|sys\.(settrace|setprofile|addaudithook)|builtins\.(input|breakpoint)'
)
"""Audit events of the interpreter that a reader must not cause."""


def fault(description: str) -> str:
    """Return the outcome for a file with which the reader breaks a rule."""
    return f'{_FAULT} {description}'


def is_fault(outcome: str) -> bool:
    """Return whether an outcome is a broken rule, neither `OPENED` nor `REFUSED`."""
    return outcome.startswith(_FAULT)


# ---------------------------------------------------------------------------------------------------------------------
# Events, time and memory


class Watch:
    """Audit hook that records forbidden events while it is active, and stops the operation that caused one.

    Create one per process: Python cannot remove audit hooks.

    Args:
        folder: Folder whose files may be read and listed, for readers that open files themselves.

    Attributes:
        active: Whether events are forbidden at present; the first one resets it.
        events: Descriptions of the forbidden events.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.active = False
        self.events: list[str] = []
        self._folder = None if folder is None else os.path.realpath(folder)
        sys.addaudithook(self._hook)

    def _is_allowed(self, event: str, args: tuple[Any, ...]) -> bool:
        if self._folder is not None and event == 'compile' and args[1] == '<unknown>':
            return True  # `ast.parse`, with which numpy reads the headers of arrays; it executes nothing
        if self._folder is None or event not in ('open', 'os.listdir', 'os.scandir', 'os.walk'):
            return False
        writes = event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes or not isinstance(args[0], (str, bytes, os.PathLike)):
            return not writes and isinstance(args[0], int)  # a file that is open already
        path = os.path.abspath(os.fsdecode(args[0]))
        return path == self._folder or path.startswith(self._folder + os.sep)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.active and FORBIDDEN_EVENTS.match(event) and not self._is_allowed(event, args):
            self.active = False
            self.events.append(f'{event} {args!r:.100}')
            raise PermissionError(f'the file made the reader do {event}')


class TimeLimitExceeded(BaseException):
    """Raised by the timer; not an Exception, so that no handler of the reader catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in this block after the given time."""

    def stop(*_args: object) -> None:
        raise TimeLimitExceeded

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10


def current_memory_mib() -> float:
    """Return the resident memory of this process, on Linux; elsewhere its peak."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except OSError:
        return peak_memory_mib()
    return pages * resource.getpagesize() / 2**20


def reset_peak_memory() -> None:
    """Return freed memory to the system and let the peak start from the present use, on Linux with glibc.

    Otherwise a reader could use memory that this process has freed before without raising the peak.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')


def patience_sec(limit_sec: float) -> float:
    """Return how long to wait for a process that reads a file twice at most, each time within the time limit."""
    return 3 * limit_sec


# ---------------------------------------------------------------------------------------------------------------------
# Sandbox


@dataclass(frozen=True)
class Sandbox:
    """A reader and the rules that it must follow.

    Attributes:
        read: The reader, a function of what `place` returns.
        refusal: Error that the reader raises for a file that it refuses, or several.
        watch: The watch of this process.
        limit_sec: Time for one file.
        memory_mib: Memory that the reader may use for any file, in addition to `memory_per_byte`.
        memory_per_byte: Memory that the reader may use for each byte of the file.
        place: Turns the content of a file into the argument of `read`, before the rules apply.
    """

    read: Callable[[Any], object]
    refusal: type[Exception] | tuple[type[Exception], ...]
    watch: Watch
    limit_sec: float = 20
    memory_mib: float = 400
    memory_per_byte: float = 8
    place: Callable[[bytes], Any] = io.BytesIO

    def memory_bound_mib(self, file_bytes: int) -> float:
        """Return how much memory the reader may use for a file of this size."""
        return self.memory_mib + self.memory_per_byte * file_bytes / 2**20

    def try_here(self, content: bytes) -> str:
        """Read a file in this process.

        A file that takes too long is read once more, because a busy machine may have been the reason.

        Returns:
            `OPENED`, `REFUSED`, or a `fault`.
        """
        outcome = self._try_once(content)
        return self._try_once(content) if outcome == self._too_long else outcome

    @property
    def _too_long(self) -> str:
        return fault(f'more than {self.limit_sec} s')

    def _try_once(self, content: bytes) -> str:
        self.watch.events.clear()
        argument = self.place(content)
        try:
            with time_limit(self.limit_sec):
                self.watch.active = True
                try:
                    self.read(argument)
                    outcome = OPENED
                except self.refusal as error:
                    length = len(str(error))
                    outcome = REFUSED if 0 < length < MAX_LINE else fault(f'a message of {length} letters')
                finally:
                    self.watch.active = False
        except TimeLimitExceeded:
            outcome = self._too_long
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = fault(f'{type(error).__name__}: {error!s:.200} ({Path(place.filename).name}:{place.lineno})')
        return fault(self.watch.events[0]) if self.watch.events else outcome

    def try_in_process(self, content: bytes) -> tuple[str, float]:
        """Read a file in a separate process, which is killed if it hangs in C code, where no timer interrupts it.

        Returns:
            The outcome as `try_here` returns it, and the memory used, in MiB.
        """
        receiver, sender = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)  # forks beside threads; the child starts none
            child = os.fork()
        if child == 0:
            try:
                reset_peak_memory()
                before_mib = peak_memory_mib()
                outcome = self.try_here(content)
                os.write(sender, f'{peak_memory_mib() - before_mib} {outcome}'.encode()[:1000])
            finally:
                os._exit(0)
        os.close(sender)
        answer = self._wait_for_answer(child, receiver)
        if answer is None:
            return fault(f'more than {patience_sec(self.limit_sec)} s'), 0.0
        memory, _, outcome = answer.partition(' ')
        if not outcome:
            return fault('its process ended'), 0.0
        bound_mib = self.memory_bound_mib(len(content))
        if float(memory) > bound_mib and not is_fault(outcome):
            outcome = fault(f'{float(memory):.0f} MiB of memory, more than {bound_mib:.0f}')
        return outcome, float(memory)

    def _wait_for_answer(self, child: int, receiver: int) -> str | None:
        """Return what a child process has written, or kill it and return None if it takes too long."""
        with open(receiver, 'rb') as pipe:
            ready, _, _ = select.select([pipe], [], [], patience_sec(self.limit_sec))
            answer = pipe.read().decode(errors='replace') if ready else None
        if answer is None:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return answer
