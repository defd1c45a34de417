"""What every layer above leans on.

Two stories: names turned into objects (configurations are JSON, so classes are named by text), and output that a user
reads (durations, the log file of a run). Files that may live behind a URL have a module of their own, whose names are
here too.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, TextIO

from dnnlib.downloads import DownloadError, is_url, make_cache_dir_path, open_url  # noqa: F401

# ---------------------------------------------------------------------------------------------------------------------
# Attribute dictionary


class EasyDict(dict):
    """A dict whose items can be read, set and deleted as attributes too: `d.lr = 0.1` is `d["lr"] = 0.1`.

    Network pickles hold `init_kwargs` of this type under the name `dnnlib.util.EasyDict`, so it stays a plain dict
    underneath, with no state of its own.
    """

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(f'EasyDict has no item {key!r}')

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        if key not in self:
            raise AttributeError(f'EasyDict has no item {key!r}')
        del self[key]


# ---------------------------------------------------------------------------------------------------------------------
# Objects by name


def _import_if_there(module_name: str) -> types.ModuleType | None:
    """The module, or None where there is none of this name; an error inside an existing module passes through."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ''
        if module_name == missing or module_name.startswith(missing + '.'):
            return None
        raise


def get_obj_by_name(name: str) -> Any:
    """The object with the dotted name `package.module.Class[.attribute]`.

    Raises ImportError where no such module or attribute exists.
    """
    parts = name.split('.')
    for module_length in range(len(parts) - 1, 0, -1):
        module = _import_if_there('.'.join(parts[:module_length]))
        if module is None:
            continue
        found: Any = module
        for depth, attribute in enumerate(parts[module_length:], start=module_length):
            if not hasattr(found, attribute):
                raise ImportError(f'{".".join(parts[:depth])} has nothing named {attribute!r} (looking for {name!r})')
            found = getattr(found, attribute)
        return found
    raise ImportError(f'no module found for {name!r}: the name must read package.module.object')


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function (or class) with the given dotted name."""
    function = get_obj_by_name(func_name)
    if not callable(function):
        raise TypeError(f'{func_name!r} is a {type(function).__name__} and cannot be called')
    return function(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Construct an object from a configuration such as `dict(class_name="torch.optim.Adam", lr=0.002)`."""
    return call_func_by_name(*args, func_name=class_name, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Output for people


# What the system says where the place that output goes to is full, or gone.
_OUTPUT_LOST = {getattr(errno, name) for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EIO') if hasattr(errno, name)}


def format_time(seconds: float) -> str:
    """A duration in its two or three largest units: `42s`, `3m 07s`, `5h 03m 07s`, `2d 05h 03m`."""
    minutes, secs = divmod(round(seconds), 60)
    hours, mins = divmod(minutes, 60)
    days, hrs = divmod(hours, 24)
    if days:
        return f'{days}d {hrs:02d}h {mins:02d}m'
    if hours:
        return f'{hours}h {mins:02d}m {secs:02d}s'
    if minutes:
        return f'{minutes}m {secs:02d}s'
    return f'{secs}s'


def excerpt(text: Any, limit: int = 200) -> str:
    """Text that comes from elsewhere, for a message: on one line, printable, and not longer than `limit`."""
    text = (text if isinstance(text, (str, bytes)) else str(text))[: 4 * limit]
    line = ''.join(c if c.isprintable() else '?' for c in ' '.join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 1] + '…'


class PatientFile:
    """A text file that grows. What cannot be written, as on a full disk, waits and is written with what comes next.

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


class _Tee:
    """A stream that behaves like `stream` and copies all text to the log of its `logger`."""

    def __init__(self, logger: Logger, stream: TextIO):
        self._logger = logger
        self._stream = stream
        self.terminal = logger.terminal

    def write(self, text: str) -> int:
        self._logger.write(text)
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._surviving():
            self._stream.flush()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """A terminal that is gone, or a full disk behind `> file`, ends no run: the log has the text."""
        try:
            yield
        except OSError as error:
            if error.errno not in _OUTPUT_LOST:
                raise

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno, buffer, ...
        return getattr(self._stream, name)


class Logger:
    """While open, text printed to stdout or stderr goes to `file_name` as well, at once or when the disk has room.

    `terminal` is the standard error from before: progress bars write there, so that they stay out of the file.

        with Logger("run/log.txt"):
            print("on the screen and in the file")
    """

    def __init__(self, file_name: str | os.PathLike, file_mode: str = 'a'):
        self.terminal: TextIO = sys.stderr
        self._saved_stdout: TextIO = sys.stdout
        self._lock = threading.Lock()
        self._file: PatientFile | None = PatientFile(file_name, start_anew=file_mode == 'w')
        self._tee_stdout = _Tee(self, sys.stdout)
        self._tee_stderr = _Tee(self, sys.stderr)
        sys.stdout, sys.stderr = self._tee_stdout, self._tee_stderr

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def write(self, text: str) -> None:
        """Text for the file only. After `close` it is dropped: the screen has it."""
        with self._lock:
            if self._file is None:
                return
            was_waiting = self._file.error is not None
            self._file.write(text)
            if self._file.error is not None and not was_waiting:
                with contextlib.suppress(OSError):
                    self.terminal.write(f'Warning: {self._file.error}; the log waits for room.\n')

    def close(self) -> None:
        """Put the streams of before back and close the file. A second call does nothing."""
        if sys.stdout is self._tee_stdout:
            sys.stdout = self._saved_stdout
        if sys.stderr is self._tee_stderr:
            sys.stderr = self.terminal
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()


# ---------------------------------------------------------------------------------------------------------------------
# Files


@contextlib.contextmanager
def os_errors_named(path: str | os.PathLike) -> Iterator[None]:
    """An OSError from within that names no file (such as that the disk is full, at a write) names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
