"""What all readers of network files raise."""

from dnnlib.text import excerpt

__all__ = ['WAY_OUT', 'NetworkPickleError', 'excerpt']

WAY_OUT = (
    'If you trust whoever made the file, let it run its own code with --trust-pickle (for train.py: let legacy.py '
    'rewrite it so; from Python: trust=True)'
)


class NetworkPickleError(ValueError):
    """A file that is no network pickle, or one that cannot be opened without running its code. One sentence."""
