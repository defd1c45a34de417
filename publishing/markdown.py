"""Markdown from text that others may have written: such text becomes code spans, in which nothing has a meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dnnlib.text import excerpt

_MAX_TEXT = 120


def code(text: Any, limit: int = _MAX_TEXT) -> str:
    """Return a code span with a text of a file: one line without markup, links, formulas or invisible characters."""
    shown = excerpt(text, limit).replace('`', "'").replace('|', '¦').replace('$', '＄').strip()
    return f'`{shown}`' if shown else '(empty)'


def sentence(text: str, limit: int = 500) -> str:
    """Return a text that the user has written, as one line that cannot contain HTML or end a cell of a table."""
    shown = excerpt(text, limit).strip()
    return shown.replace('&', '&amp;').replace('<', '&lt;').replace('|', '&#124;')


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. The cells are Markdown, without line breaks."""
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def front_matter(values: Mapping[str, str | list[str]]) -> str:
    """Return the YAML at the top of a model card. JSON strings are YAML strings, whatever they contain."""
    lines = ['---']
    for key, value in values.items():
        if isinstance(value, list):
            lines += [f'{key}:', *(f'- {json.dumps(item)}' for item in value)]
        else:
            lines.append(f'{key}: {json.dumps(value)}')
    return '\n'.join([*lines, '---', ''])
