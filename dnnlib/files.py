"""Bounded reads and safe writes: atomic replacement of files, appends that are retried, and locks on folders."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dnnlib.scratch import partial_of, remove_abandoned
from dnnlib.text import ESCAPED

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows does not have this module

_LOCK_POLL_SEC = 0.2


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file for reading. Unlike `open`, this neither waits for a named pipe nor opens a device.

    Raises:
        OSError: The file does not exist, is a folder, a pipe or a device, or cannot be opened.
    """
    file = open(path, 'rb', opener=lambda name, flags: os.open(name, flags | getattr(os, 'O_NONBLOCK', 0)))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, 'not a regular file', os.fspath(path))
    return file


def read_file(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Read a whole regular file (see `open_regular`) of limited size.

    Args:
        path: File to read.
        max_bytes: Largest size that is read.

    Raises:
        OSError: The file does not exist, is a folder, a pipe or a device, or cannot be read.
        ValueError: The file is larger than `max_bytes`; one sentence that begins with its path.
    """
    with os_errors_named(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= max_bytes else b''  # not `max_bytes`, which would be allocated
        if len(content) > size:  # it has just grown
            content += file.read(max_bytes + 1 - len(content))
    if max(size, len(content)) > max_bytes:
        raise ValueError(f'{os.fspath(path)} has more than {max_bytes} bytes, the most that is read of such a file.')
    return content


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends, and is deleted if the block raises.

    Until then the content is in a hidden file beside `path` with a unique name, so concurrent writers do not interfere.
    Missing parent folders are created. The first call for a folder removes what killed processes have left there.

    Args:
        path: File to replace.
        durable: Flush the file to the disk, so that it survives a power failure.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_once(os.path.abspath(path.parent))
    with os_errors_named(path), partial_of(path) as partial:
        with open(partial, 'wb') as f:
            yield f
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(partial, path)
        if durable:
            _sync_folder(path.parent)


@functools.cache
def _remove_abandoned_once(folder: str) -> None:
    remove_abandoned(folder)  # once: a process may write very many files into one folder


def _sync_folder(path: Path) -> None:
    """Flush the directory entries of a folder to the disk, on systems that support it."""
    if os.name != 'posix':
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(content: Any, path: str | os.PathLike) -> None:
    """Write JSON for people to read, complete or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    with atomic_file(path) as f:
        f.write(text.encode(errors='backslashreplace'))  # also an escape in JSON


@contextlib.contextmanager
def locked_folder(path: str | os.PathLike, wait_sec: float = 20) -> Iterator[None]:
    """Hold an exclusive lock on a folder. The system releases it even if the process is killed.

    Child processes of a killed process may hold the lock a few seconds longer, hence the wait. On systems and file
    systems without such locks this does nothing.

    Args:
        path: Existing folder.
        wait_sec: How long to wait for the lock.

    Raises:
        ValueError: Another process still holds the lock after `wait_sec`.
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
                        f'{path} is in use by another process: wait for that process to end, or stop it.'
                    ) from error
                time.sleep(_LOCK_POLL_SEC)
            except OSError:  # some network file systems
                break
        yield
    finally:
        os.close(folder)


class RetryingFile:
    """A text file to append to. Text that cannot be written, for example to a full disk, is kept and written later.

    Args:
        path: File to append to; created if it does not exist.
        truncate: Empty the file first.

    Attributes:
        error: Why some text is not written yet, as an OSError that names the file, or None if all text is written.
    """

    def __init__(self, path: str | os.PathLike, truncate: bool = False):
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else os.O_APPEND)
        self._fd: int | None = os.open(path, flags | getattr(os, 'O_BINARY', 0) | getattr(os, 'O_CLOEXEC', 0), 0o666)
        self._pending = b''
        self.error: OSError | None = None

    def write(self, text: str) -> None:
        """Write the pending text and `text`, either all of it or nothing. Errors are stored, not raised."""
        self._pending += text.encode(errors=ESCAPED)
        if self._fd is None:
            return
        written = 0
        try:
            end = os.lseek(self._fd, 0, os.SEEK_END)
            while written < len(self._pending):
                written += os.write(self._fd, self._pending[written:])
            self.error = None
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, os.fspath(self._path))
            if written:
                os.ftruncate(self._fd, end)
                written = 0
        self._pending = self._pending[written:]

    def close(self) -> None:
        """Try once more to write the pending text, then close the file. Further calls do nothing."""
        self.write('')
        if self._fd is not None:
            with contextlib.suppress(OSError):  # network file systems may report a full disk here
                os.close(self._fd)
            self._fd = None


@contextlib.contextmanager
def os_errors_named(path: str | os.PathLike) -> Iterator[None]:
    """Within this context, an OSError that names no file (a full disk, for example) is raised naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
