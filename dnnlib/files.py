"""Writing files so that nothing is lost or left half-written: atomic replacement, retried appends, folder locks."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, durable: bool = False) -> Iterator[BinaryIO]:
    """Binary file to write that takes the place of `path` when the block ends, and vanishes when the block raises.

    Until then it lies beside `path` under a hidden name of its own, so concurrent writers do not meet. Missing parent
    folders are made. `durable=True`: it has also reached the disk then, so that it outlasts a loss of power. Raises
    OSError where the place is not writable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
    try:
        with os_errors_named(path):
            with open(partial, 'xb') as f:
                yield f
                if durable:
                    f.flush()
                    os.fsync(f.fileno())
            os.replace(partial, path)
            if durable:
                _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Write the names in a folder to the disk, where the system knows how to."""
    if os.name != 'posix':
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked_folder(path: str | os.PathLike, wait_sec: float = 20) -> Iterator[None]:
    """Within this context no other process gets to this point with the same folder; however it ends, the lock is gone.

    A process that was just killed may leave children behind for some seconds, hence the wait. Raises ValueError where
    the folder stays locked. Where the system has no such locks, nothing is locked.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    deadline = time.monotonic() + wait_sec
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f'{path} is in use by another process: wait until that has ended, or stop it.'
                    ) from error
                time.sleep(0.2)
            except OSError:  # some network file systems
                break
        yield
    finally:
        os.close(folder)


class RetryingFile:
    """A text file that is appended to. Text that cannot be written, as on a full disk, is kept and written later.

    Args:
        path: The file; appended to where it is there.
        start_anew: Empty it first.

    Attributes:
        error: Why text is waiting, as an OSError that names the file; None where nothing is.
    """

    def __init__(self, path: str | os.PathLike, start_anew: bool = False):
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if start_anew else os.O_APPEND)
        self._fd: int | None = os.open(path, flags | getattr(os, 'O_BINARY', 0) | getattr(os, 'O_CLOEXEC', 0), 0o666)
        self._waiting = b''
        self.error: OSError | None = None

    def write(self, text: str) -> None:
        """Write what waits and the text, all of it or nothing; raises nothing."""
        self._waiting += text.encode(errors='backslashreplace')
        if self._fd is None:
            return
        written = 0
        try:
            end = os.lseek(self._fd, 0, os.SEEK_END)
            while written < len(self._waiting):
                written += os.write(self._fd, self._waiting[written:])
            self.error = None
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, os.fspath(self._path))
            if written:
                os.ftruncate(self._fd, end)
                written = 0
        self._waiting = self._waiting[written:]

    def close(self) -> None:
        """One last try to write what waits; then the file is closed. A second call does nothing."""
        self.write('')
        if self._fd is not None:
            with contextlib.suppress(OSError):  # network file systems may report a full disk here
                os.close(self._fd)
            self._fd = None


@contextlib.contextmanager
def os_errors_named(path: str | os.PathLike) -> Iterator[None]:
    """An OSError from within that names no file (such as that the disk is full, at a write) names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
