"""Error messages about TensorFlow pickles."""

from __future__ import annotations

from typing import Any

from dnnlib.text import excerpt
from network_files.errors import NetworkPickleError

_MAX_LISTED = 5


def refusal(where: str, reason: str) -> NetworkPickleError:
    """Return the error for a network that cannot be converted."""
    return NetworkPickleError(f'{where} was not opened: {reason}')


def damaged(where: str, reason: str) -> NetworkPickleError:
    """Return the error for content that is not a network."""
    return NetworkPickleError(f'{where} was not opened: not a TensorFlow network, or damaged ({reason})')


def unmatched(where: str, complaints: dict[str, list[str]]) -> NetworkPickleError:
    """Return the error for variables that do not match; `complaints` are names by kind of problem."""
    texts = [f'{len(names)} {what} ({listed(names)})' for what, names in complaints.items() if names]
    return refusal(where, f'its variables do not match the network that its keywords describe: {"; ".join(texts)}')


def quoted(value: Any) -> str:
    """Return a value from the file as text that is never longer than a line."""
    if isinstance(value, str):
        return repr(excerpt(value[:100], 40))
    if isinstance(value, (bool, float, type(None))) or (isinstance(value, int) and abs(value) < 2**63):
        return str(value)
    return f'a {type(value).__name__}'


def listed(names: list[str]) -> str:
    """Return some of the names, and how many more there are."""
    more = len(names) - _MAX_LISTED
    first = ', '.join(excerpt(name[:200], 120) for name in names[:_MAX_LISTED])
    return f'{first} and {more} more' if more > 0 else first
