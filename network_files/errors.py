"""The errors that readers of network files raise."""

from __future__ import annotations

TRUST_HINT = (
    'If you trust the author of the file, let it run its own code with --trust-pickle (for train.py: rewrite it with '
    'legacy.py --trust-pickle first; from Python: trust=True)'
)


class NetworkPickleError(ValueError):
    """A file that is not a network pickle, or cannot be opened without running its code.

    The message is one sentence that names the file.
    """


class UnsupportedNetworkError(NetworkPickleError):
    """A network that cannot be built with this project's classes; code in the file may be able to.

    Args:
        where: Name of the network: 'FILE: G_ema'.
        reason: Why it cannot be built.
    """

    def __init__(self, where: str, reason: str):
        super().__init__(f'{where} was not opened: {reason}')
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnsupportedNetworkError], tuple[str, str]]:
        return type(self), (self.where, self.reason)
