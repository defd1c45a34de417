"""The log file of a run: everything printed to the terminal is written to a file as well."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from dnnlib.files import RetryingFile

# Error codes of the system where the destination of some output is full, or gone.
_OUTPUT_LOST = {getattr(errno, name) for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EIO') if hasattr(errno, name)}


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
        self._file: RetryingFile | None = RetryingFile(file_name, start_anew=file_mode == 'w')
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
