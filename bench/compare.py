"""Figures beside those of the textbook, measured in turns, as a table or Markdown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from bench.common import format_seconds, format_share, measure
from bench.reference import in_textbook

HEADINGS = ('what', 'time', 'textbook', 'ratio', 'floor', 'share', 'runs')
TEXTBOOK = ', textbook'


@dataclass(frozen=True)
class Comparison:
    """One line: seconds of each run here and by the textbook, and the least possible where that is known."""

    what: str
    times_sec: list[float]
    textbook_sec: list[float]
    floor_sec: float | None = None

    @property
    def ratio(self) -> float:
        return median(self.textbook_sec) / median(self.times_sec)

    @property
    def share(self) -> float | None:
        return None if self.floor_sec is None else self.floor_sec / median(self.times_sec)

    def cells(self) -> tuple[str, ...]:
        floor = '' if self.floor_sec is None else format_seconds(self.floor_sec)
        share = '' if self.share is None else format_share(self.share)
        return (
            self.what,
            format_seconds(median(self.times_sec)),
            format_seconds(median(self.textbook_sec)),
            f'{self.ratio:.2f}',
            floor,
            share,
            str(len(self.times_sec)),
        )

    def to_dict(self) -> dict:
        return dict(
            what=self.what,
            times_sec=self.times_sec,
            textbook_sec=self.textbook_sec,
            floor_sec=self.floor_sec,
            ratio=self.ratio,
            share=self.share,
        )


def compare(
    cases: Mapping[str, tuple[Callable, Callable, float | None]], device: torch.device, **options
) -> list[Comparison]:
    """Of cases {what: (here, textbook, floor in seconds)}; `textbook` is run in the context of `bench.reference`.

    Other arguments as for `bench.common.measure`.
    """
    runs = {}
    for what, (here, there, _floor) in cases.items():
        runs[what] = here
        runs[what + TEXTBOOK] = in_textbook(there)
    times = measure(runs, device, **options)
    return [Comparison(what, times[what], times[what + TEXTBOOK], floor) for what, (_, _, floor) in cases.items()]


def text_table(rows: list[Comparison]) -> str:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return '\n'.join(
        '  '.join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    )


def markdown_table(rows: list[Comparison]) -> str:
    lines = [HEADINGS, ('---', *['---:'] * (len(HEADINGS) - 1)), *(row.cells() for row in rows)]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
