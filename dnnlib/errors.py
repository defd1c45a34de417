"""Errors that libraries raise for a user's mistake, and the messages that users see instead of tracebacks.

Libraries know arguments, not command-line options. `dnnlib.cli.usage_errors` turns their errors into usage errors that
name the option.
"""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

_PROJECT_ROOT = Path(__file__).resolve().parent.parent


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
        if error.errno == errno.EPIPE:
            return None
        if error.strerror and isinstance(error.filename, (str, bytes, os.PathLike)):
            return f'{os.fsdecode(error.filename)}: {error.strerror}'
        return str(error) or None
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not str(error):
        return None
    raised_in = Path(frames[-1].filename).resolve()
    is_own_code = raised_in.is_relative_to(_PROJECT_ROOT) and 'site-packages' not in raised_in.parts
    return str(error) if is_own_code else None
