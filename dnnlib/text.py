"""Text for messages: durations, excerpts of untrusted text, and what an encoding cannot show."""

from __future__ import annotations

import codecs
from typing import Any

ESCAPED = 'dnnlib.escaped'
"""Value of `errors` for output that must not fail: bytes of file names that are not UTF-8, and characters that the
encoding does not have, are written as \\xe9 or \\u20ac."""


def format_time(seconds: float) -> str:
    """Format a duration in its largest units: '42s', '3m 07s', '5h 03m 07s' or '2d 05h 03m'."""
    minutes, secs = divmod(round(seconds), 60)
    hours, mins = divmod(minutes, 60)
    days, hrs = divmod(hours, 24)
    if days:
        return f'{days}d {hrs:02d}h {mins:02d}m'
    if hours:
        return f'{hours}h {mins:02d}m {secs:02d}s'
    if minutes:
        return f'{minutes}m {secs:02d}s'
    return f'{secs}s'


def excerpt(text: Any, limit: int = 200) -> str:
    """Make untrusted text safe for a message: one line of printable characters, shortened to `limit`."""
    text = (text if isinstance(text, (str, bytes)) else str(text))[: 4 * limit]
    line = ''.join(c if c.isprintable() else '?' for c in ' '.join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 1] + '…'


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Python represents the byte 0xe9 of such a file name as U+DCE9.
    characters = [
        chr(ord(c) - 0xDC00) if '\udc80' <= c <= '\udcff' else c for c in error.object[error.start : error.end]
    ]
    return ''.join(characters).encode('ascii', errors='backslashreplace'), error.end


codecs.register_error(ESCAPED, _escape)
