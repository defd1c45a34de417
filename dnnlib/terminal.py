"""What programs print: no text of a file can control the terminal, wherever it is printed.

`clean_output()` is in force while a command runs (`dnnlib.cli.Command`), and in the processes that it starts. Progress
bars, which do move the cursor, write to the terminal itself (`terminal()`) and clean their titles.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO, cast

from dnnlib.text import without_controls


class _CleanStream:
    """A stream that behaves like `stream`, but replaces control characters by '?'."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.terminal: TextIO = getattr(stream, 'terminal', stream)

    def write(self, text: str) -> int:
        self._stream.write(without_controls(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # flush, isatty, encoding, fileno, buffer, ...
        return getattr(self._stream, name)


@contextlib.contextmanager
def clean_output() -> Iterator[None]:
    """Within this context, and in the traceback of an error that ends the program, control characters are shown as '?'.

    Standard output and standard error may be None, as in programs without a console.
    """
    before = sys.stdout, sys.stderr
    cleaned = [None if stream is None else cast(TextIO, _CleanStream(stream)) for stream in before]
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], tuple(cleaned))
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show_traceback
    try:
        yield
    finally:
        # Unless somebody else has replaced them since.
        if sys.stdout is cleaned[0]:
            sys.stdout = before[0]
        if sys.stderr is cleaned[1]:
            sys.stderr = before[1]


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    with clean_output():
        sys.__excepthook__(kind, error, trace)


def terminal() -> TextIO:
    """Return the stderr of the terminal, which bypasses `clean_output` and the log file of a run (`dnnlib.log`)."""
    return getattr(sys.stderr, 'terminal', sys.stderr)
