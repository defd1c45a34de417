"""Text for messages: durations, text of untrusted files, which could otherwise rewrite what a terminal shows, and what
an encoding cannot show."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Any

ESCAPED = 'dnnlib.escaped'
"""Value of `errors` for output that must not fail: bytes of file names that are not UTF-8, and characters that the
encoding does not have, are written as \\xe9 or \\u20ac."""

MAX_LINE = 2000
"""Largest number of characters of one line of an error message."""

# Control characters except tabs and line breaks, and the invisible characters that reorder or hide text. Joiners, which
# emoji and some scripts need, are not among them.
_CONTROL = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb'
    '\U000e0000-\U000e007f]'
)


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


def join_excerpts(texts: Iterable[Any], limit: int = 3, length: int = 200) -> str:
    """Join untrusted texts for a message: 'a.png, b.png, c.png and 7 more'.

    Args:
        texts: File names, names of classes or the like.
        limit: Number of texts that are shown.
        length: Number of characters that are shown of each.
    """
    texts = list(texts)
    shown = ', '.join(excerpt(text, length) for text in texts[:limit])
    return shown if len(texts) <= limit else f'{shown} and {len(texts) - limit} more'


def without_controls(text: str) -> str:
    """Replace the characters by which text can change what a terminal shows by '?'; tabs and line breaks remain."""
    return _CONTROL.sub('?', text)


def message_lines(text: str, limit: int = MAX_LINE) -> str:
    """Make a message that may quote untrusted text safe to show.

    Its lines have at most `limit` characters; longer ones lose their middle, because a message begins with what it is
    about and ends with the way out.
    """
    return '\n'.join(_without_middle(without_controls(line), limit) for line in text.split('\n'))


def message_line(text: Any, limit: int = MAX_LINE) -> str:
    """Make a message of one sentence safe to show, like `message_lines`, as one line."""
    return message_lines(str(text).replace('\r\n', '\n').replace('\n', ' '), limit)


def _without_middle(line: str, limit: int) -> str:
    if len(line) <= limit:
        return line
    end = limit // 3
    return f'{line[: limit - end - 3]} … {line[-end:]}'


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Python represents the byte 0xe9 of such a file name as U+DCE9.
    characters = [
        chr(ord(c) - 0xDC00) if '\udc80' <= c <= '\udcff' else c for c in error.object[error.start : error.end]
    ]
    return ''.join(characters).encode('ascii', errors='backslashreplace'), error.end


codecs.register_error(ESCAPED, _escape)
