"""Files that are either there as a whole or not at all."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dnnlib.util import os_errors_named

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
