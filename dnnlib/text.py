"""Text for messages: durations, and excerpts of untrusted text."""

from __future__ import annotations

from typing import Any


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
