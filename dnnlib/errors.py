"""Errors that libraries raise for a user's mistake, and the messages that users see instead of tracebacks.

Libraries know arguments, not command-line options. `dnnlib.cli.usage_errors` turns their errors into usage errors that
name the option.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

_PROJECT_ROOT = Path(__file__).resolve().parent.parent
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class InvalidArgument(ValueError):
    """An argument that a function cannot use.

    Args:
        argument: Name of the argument, such as 'batch_gpu'.
        message: One sentence: the value, the rule, and how to fix it.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(message)
        self.argument = argument

    def __reduce__(self) -> tuple[type[InvalidArgument], tuple[str, str]]:
        return type(self), (self.argument, str(self))


class DownloadError(OSError):
    """A URL that could not be downloaded; the message is a sentence for the user."""


def option_name(argument: str) -> str:
    """Return the command-line option of an argument: '--batch-gpu' for 'batch_gpu'."""
    return '--' + argument.replace('_', '-')


def error_sentence(error: ValueError | OSError) -> str | None:
    """Return the message to show instead of a traceback, or None if the traceback is more useful.

    The message of an OSError names the file and the reason. The message of a ValueError is meant for users if this
    project's own code raised it; a ValueError raised inside another library is a bug in the calling code.
    """
    if isinstance(error, OSError):
        if error.strerror and isinstance(error.filename, (str, bytes, os.PathLike)):
            return f'{os.fsdecode(error.filename)}: {error.strerror}{_limit_to_raise(error)}'
        return f'{error.strerror or error}{_limit_to_raise(error)}' if str(error) else None
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
        return (
            f'{ascii(error.object)} cannot be the name of a file in this locale, whose encoding is {error.encoding}; '
            f'use another name{"" if error.encoding == "utf-8" else ", or set LC_ALL=C.UTF-8"}.'
        )
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    if not frames or not str(error):
        return None
    raised_in = Path(frames[-1].f_code.co_filename).resolve()
    if not raised_in.is_relative_to(_PROJECT_ROOT):
        return None
    is_installed_here = 'site-packages' in raised_in.relative_to(_PROJECT_ROOT).parts  # as in a checkout's .venv
    return None if is_installed_here else str(error)


def raise_if_shortage(error: Exception) -> None:
    """Raise the error again if the process has no open files or memory left: then the file it opens is not at fault."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error


def _limit_to_raise(error: OSError) -> str:
    """Return which limit of the shell an error is due to, as the end of a sentence, or ''."""
    if resource is None:
        return ''
    if error.errno == errno.EMFILE:
        return f' (the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; raise it with ulimit -n)'
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0] if error.errno == errno.EFBIG else resource.RLIM_INFINITY
    return '' if limit == resource.RLIM_INFINITY else f' (the limit is {limit:,} bytes; raise it with ulimit -f)'
