"""Times of this project beside those of the reference implementation, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from bench.common import format_floor, format_seconds, measure
from bench.reference import with_reference

HEADINGS = ('what', 'time', 'reference', 'speedup', 'floor', 'share', 'runs')

# What to run for this project, what to run with the reference implementation, and the floor in seconds if it is known.
ComparedCase = tuple[Callable[[], object], Callable[[], object], float | None]


@dataclass(frozen=True)
class Comparison:
    """One line of the table: the seconds of each run, and the least possible time if it is known."""

    what: str
    times_sec: list[float]
    reference_sec: list[float]
    floor_sec: float | None = None

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference implementation."""
        return median(self.reference_sec) / median(self.times_sec)

    @property
    def share(self) -> float | None:
        """Fraction of the ideal speed that was reached."""
        return None if self.floor_sec is None else self.floor_sec / median(self.times_sec)

    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `HEADINGS`."""
        times = [format_seconds(median(seconds)) for seconds in (self.times_sec, self.reference_sec)]
        floor = format_floor(self.floor_sec, self.share)
        return self.what, *times, f'{self.ratio:.2f}', *floor, str(len(self.times_sec))

    def to_dict(self) -> dict[str, Any]:
        """Everything about the comparison, as JSON."""
        return dict(
            what=self.what,
            times_sec=self.times_sec,
            textbook_sec=self.reference_sec,
            floor_sec=self.floor_sec,
            ratio=self.ratio,
            share=self.share,
        )


def compare(cases: Mapping[str, ComparedCase], device: torch.device, **options: Any) -> list[Comparison]:
    """Time each case with and without the reference implementation, in turns.

    Args:
        cases: Cases by name.
        device: Where they compute.
        **options: Further arguments of `bench.common.measure`.
    """
    runs = {}
    for what, (ours, reference, _floor) in cases.items():
        runs[what] = ours
        runs[f'{what}, reference'] = with_reference(reference)
    times = measure(runs, device, **options)
    return [
        Comparison(what, times[what], times[f'{what}, reference'], floor_sec)
        for what, (_ours, _reference, floor_sec) in cases.items()
    ]
