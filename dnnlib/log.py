"""The log file of a run: a copy of everything that is printed to the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, TextIO, cast

from dnnlib.files import RetryingFile
from dnnlib.terminal import terminal
from dnnlib.text import without_controls


class _Tee:
    """A stream that behaves like `stream` and also copies all text to the log file of `logger`."""

    def __init__(self, logger: Logger, stream: TextIO):
        self._logger = logger
        self._stream = stream
        self.terminal = logger.terminal

    # The terminal may be gone, and the disk behind `> file` full: the log has the text.

    def write(self, text: str) -> int:
        self._logger.write(text)
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(without_controls(text))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno, buffer, ...
        return getattr(self._stream, name)


class Logger:
    """Context manager that copies everything printed to stdout and stderr to a file.

    Text that cannot be written, for example to a full disk, is kept and written later. Neither the file nor the screen
    gets control characters.

        with Logger("run/log.txt"):
            print("on the screen and in the file")

    Args:
        file_name: The log file.
        file_mode: 'a' appends to the file, 'w' overwrites it.

    Attributes:
        terminal: The original stderr. Progress bars write to it directly, so they do not end up in the file.
    """

    def __init__(self, file_name: str | os.PathLike, file_mode: str = 'a'):
        self.terminal: TextIO = terminal()
        self._saved_stdout: TextIO = sys.stdout
        self._saved_stderr: TextIO = sys.stderr
        self._lock = threading.Lock()
        self._file: RetryingFile | None = RetryingFile(file_name, truncate=file_mode == 'w')
        self._tee_stdout = cast(TextIO, _Tee(self, sys.stdout))
        self._tee_stderr = cast(TextIO, _Tee(self, sys.stderr))
        sys.stdout, sys.stderr = self._tee_stdout, self._tee_stderr

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def write(self, text: str) -> None:
        """Write text to the file only. After `close`, do nothing."""
        with self._lock:
            if self._file is None:
                return
            had_error = self._file.error is not None
            self._file.write(without_controls(text))
            if self._file.error is not None and not had_error:
                with contextlib.suppress(OSError, ValueError):
                    self.terminal.write(f'Warning: {self._file.error}; the log will be written when there is space.\n')

    def close(self) -> None:
        """Restore stdout and stderr and close the file. Further calls do nothing."""
        if sys.stdout is self._tee_stdout:
            sys.stdout = self._saved_stdout
        if sys.stderr is self._tee_stderr:
            sys.stderr = self._saved_stderr
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()
