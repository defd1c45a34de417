"""Files and folders that exist only while a process works on them.

A process that is killed cannot delete what it has not finished. So the owner of such a file or folder locks it, and the
system releases the lock when the owner ends, in whatever way. `remove_abandoned` deletes all that nobody has locked;
where files cannot be locked, those that nobody has changed for a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows does not have this module

UNTOUCHED_SEC = 24 * 3600
_NAME = re.compile(r'.+\.[0-9a-f]{32}\.partial', re.DOTALL)


@contextlib.contextmanager
def partial_of(path: str | os.PathLike, is_folder: bool = False) -> Iterator[Path]:
    """Create an empty hidden file or folder beside `path`, with a unique name, and delete it when the block ends.

    Args:
        path: What it will become.
        is_folder: Create a folder, which only this user can read.

    Raises:
        OSError: It cannot be created.
    """
    partial, lock = _create(Path(path), is_folder)
    try:
        yield partial
    finally:
        _remove(partial)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Create a folder for temporary files, and delete it when the block ends.

    Args:
        name: Name of its purpose. Folders of killed processes with the same purpose are removed.
    """
    path = Path(tempfile.gettempdir(), f'ada-gan-{name}')
    remove_abandoned(path.parent, path.name)
    with partial_of(path, is_folder=True) as folder:
        yield folder


def remove_abandoned(folder: str | os.PathLike, name: str | None = None, untouched_sec: float = UNTOUCHED_SEC) -> None:
    """Delete the partial files and folders of processes that no longer exist.

    Args:
        folder: Where they are. It may not exist.
        name: Delete only those that would have become this; None: all.
        untouched_sec: Age from which they are deleted where files cannot be locked.
    """
    with contextlib.suppress(OSError):  # the folder cannot be listed
        for entry in os.scandir(os.fspath(folder)):
            is_wanted = name is None or entry.name.startswith(f'.{name}.')
            if is_wanted and _NAME.fullmatch(entry.name) and _is_own(Path(entry.path)):
                _remove_if_abandoned(Path(entry.path), untouched_sec)


def _create(path: Path, is_folder: bool) -> tuple[Path, int | None]:
    """Return the partial file or folder, and the file descriptor that locks it, or None if it cannot be locked."""
    while True:
        partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
        if is_folder:
            partial.mkdir(mode=0o700)
        else:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            return partial, _lock(partial)
        except (BlockingIOError, FileNotFoundError):
            pass  # Another process has removed it before it was locked.


def _lock(path: Path) -> int | None:
    """Lock a file or folder: return the file descriptor that holds the lock, or None if it cannot be locked.

    Raises:
        BlockingIOError: Another process holds the lock.
        FileNotFoundError: It has been deleted.
    """
    if fcntl is None:
        return None
    try:
        fd = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            return fd
        raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        raise
    except OSError:  # some network file systems
        os.close(fd)
        return None


def _is_own(path: Path) -> bool:
    """Return whether this is a file or folder of this user: others may put anything into a shared folder."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return is_plain and (not hasattr(os, 'getuid') or status.st_uid == os.getuid())


def _remove_if_abandoned(path: Path, untouched_sec: float) -> None:
    with contextlib.suppress(OSError):  # somebody works on it, or it is gone
        lock = _lock(path)
        try:
            if lock is not None or time.time() - path.stat().st_mtime >= untouched_sec:
                _remove(path)
        finally:
            if lock is not None:
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
