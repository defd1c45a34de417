"""The error that all readers of network files raise."""

from __future__ import annotations

TRUST_HINT = (
    'If you trust the author of the file, let it run its own code with --trust-pickle (for train.py: rewrite it with '
    'legacy.py first; from Python: trust=True)'
)


class NetworkPickleError(ValueError):
    """A file that is not a network pickle, or cannot be opened without running its code.

    The message is one sentence that names the file.
    """
