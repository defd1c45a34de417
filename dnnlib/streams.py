"""Standard streams that cannot end a program.

A terminal may be closed, the disk behind `> file` may be full, a reader such as `head` may leave, and `>&-` starts a
program without the stream. None of this is a reason to lose the files that the program is writing. So all scripts call
`protect_standard_streams` first: from then on, text that cannot be written is dropped, and characters that the encoding
of the terminal does not have are written as escapes such as `\\xe9`. ASCII, the encoding of the locale C, is taken as
UTF-8, as Python itself does unless it is told otherwise. `lost_output` tells whether text was dropped.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO, cast

from dnnlib.text import ESCAPED

_STANDARD_FDS = (0, 1, 2)
_WAIT_SEC = 10  # for a reader that is slow and has made the stream non-blocking


class _LossyFile(io.RawIOBase):
    """The file behind a standard stream. Bytes that cannot be written are dropped.

    Args:
        raw: The file; None drops everything.

    Attributes:
        error: The first error of the file, or None.
    """

    def __init__(self, raw: Any):
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast('B')
        written = 0
        while self._raw is not None and written < len(view):
            try:
                count = self._raw.write(view[written:])
                if count is None and not select.select([], [self._raw], [], _WAIT_SEC)[1]:
                    raise BlockingIOError(errno.EAGAIN, 'its reader does not read')
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._note(error)
                break
            written += count or 0
        return len(view)

    def _note(self, error: OSError | ValueError) -> None:
        if self.error is None:
            number = getattr(error, 'errno', None) or errno.EBADF
            self.error = OSError(number, os.strerror(number), 'standard output')

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        if self._raw is None:
            raise io.UnsupportedOperation('this stream has no file descriptor')
        return self._raw.fileno()

    @property
    def name(self) -> Any:
        return getattr(self._raw, 'name', os.devnull)


_files: dict[str, _LossyFile] = {}
_loss_is_tolerated = False


def protect_standard_streams() -> None:
    """Make stdout and stderr of this process behave as described at the top of this file. Repeated calls do nothing.

    Streams that something else has replaced, such as a test, are left alone.
    """
    missing = [fd for fd in _STANDARD_FDS if not _is_open(fd)]
    for fd in missing:
        # Otherwise the next file to be opened would get this number, and all output would go there.
        _open_null_device(fd)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding='utf-8')
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if name not in _files and (stream is None or stream is getattr(sys, f'__{name}__')):
            setattr(sys, name, _protected(name, stream))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _open_null_device(fd: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        if null == fd:
            os.set_inheritable(fd, True)
        else:
            os.dup2(null, fd)  # inheritable
            os.close(null)


def _protected(name: str, stream: Any) -> TextIO:
    if stream is None:
        file = _files[name] = _LossyFile(None)
        return io.TextIOWrapper(io.BufferedWriter(file), encoding='utf-8', errors=ESCAPED)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    binary = getattr(stream, 'buffer', None)
    if binary is None:  # not a stream of the interpreter
        return stream
    file = _files[name] = _LossyFile(getattr(binary, 'raw', binary))
    return io.TextIOWrapper(
        cast(Any, file) if stream.write_through else io.BufferedWriter(file),
        encoding='utf-8' if codecs.lookup(stream.encoding).name == 'ascii' else stream.encoding,
        errors=ESCAPED,
        newline=None if os.name == 'nt' else '\n',
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def tolerate_lost_output() -> None:
    """From now on `lost_output` returns None: the text is also somewhere else, such as in the log file of a run."""
    global _loss_is_tolerated
    _loss_is_tolerated = True


def lost_output() -> OSError | None:
    """Return why text on stdout was lost, or None if nothing was, or only because its reader left, as `head` does."""
    file = _files.get('stdout')
    if file is None or _loss_is_tolerated:
        return None
    sys.stdout.flush()
    return None if file.error is None or file.error.errno == errno.EPIPE else file.error
