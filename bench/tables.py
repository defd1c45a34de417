"""Tables of results, as text and as Markdown, and the place in a document where they go."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnnlib.files import atomic_file

if TYPE_CHECKING:  # it imports PyTorch, which scripts/check_versions.py does without
    from bench.common import Row

ROW_HEADINGS = ('what', 'time', 'rate', 'floor', 'share', 'runs')


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with aligned columns: the first to the left, the others to the right."""
    return '\n'.join(_aligned([headings, *rows]))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]], left_columns: int = 1) -> str:
    """Return a Markdown table whose columns are aligned to the right, except for the first `left_columns`."""
    alignment = ['---'] * left_columns + ['---:'] * (len(headings) - left_columns)
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in [headings, alignment, *rows])


def text_table_of_rows(rows: Sequence[Row]) -> str:
    """Return the text table of `Row`s, with a blank line above each section."""
    heading, *lines = _aligned([ROW_HEADINGS, *(row.cells() for row in rows)])
    text = [heading]
    for _section, members in itertools.groupby(zip(rows, lines), key=lambda pair: pair[0].section):
        text += ['', *(line for _row, line in members)]
    return '\n'.join(text)


def markdown_table_of_rows(rows: Sequence[Row]) -> str:
    """Return the Markdown table of `Row`s; its first column is the section."""
    return markdown_table(('section', *ROW_HEADINGS), [(row.section, *row.cells()) for row in rows], left_columns=2)


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        yield '  '.join(cells).rstrip()


class MarkedSection:
    """The lines between `<!-- NAME begin -->` and `<!-- NAME end -->` of a Markdown file, which a benchmark rewrites.

    Args:
        path: The Markdown file.
        name: The name in the markers.

    Raises:
        ValueError: The file does not have exactly one such pair of markers.
    """

    def __init__(self, path: str, name: str):
        self.path = Path(path)
        lines = self.path.read_text(encoding='utf-8').splitlines()
        begin, end = f'<!-- {name} begin -->', f'<!-- {name} end -->'
        if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
            raise ValueError(
                f'{path} has no place for the table: add the lines {begin!r} and {end!r}, in this order and once each.'
            )
        self._before = lines[: lines.index(begin) + 1]
        self._after = lines[lines.index(end) :]
        self.text = '\n'.join(lines[lines.index(begin) + 1 : lines.index(end)])
        """What is between the markers."""

    def replace(self, text: str) -> None:
        """Replace what is between the markers by `text`."""
        self.text = text
        lines = [*self._before, '', *text.splitlines(), '', *self._after]
        with atomic_file(self.path) as file:
            file.write(('\n'.join(lines) + '\n').encode())
