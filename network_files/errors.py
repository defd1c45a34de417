"""What all readers of network files raise, and how they quote a file."""

from typing import Any

WAY_OUT = 'If you trust whoever made the file, let it run its own code: --trust-pickle (from Python: trust=True)'


class NetworkPickleError(ValueError):
    """A file that is no network pickle, or one that cannot be opened without running its code. One sentence."""


def excerpt(text: Any, limit: int = 200) -> str:
    """Text from a file, or about it, for a message: on one line and not longer than `limit`."""
    line = ' '.join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + '…'
