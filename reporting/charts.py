"""Line charts as SVG, with a table of the same numbers for readers who do not see them.

Colors and dashes are classes of the page's style sheet, so that charts follow its light or dark theme. The colors are
those of Okabe and Ito ("Color universal design", 2008), which people with color vision deficiency can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reporting.markup import escaped
from reporting.run_record import Curve, thinned

NUM_COLORS = 8

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 40
_MIN_RANGE = 0.02  # of the largest value: smaller changes stay small in the drawing
_MAX_MARKS = 40  # points that say their value when pointed at
_MAX_ROWS = 12  # of the table


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        label: Its name in the legend.
        curve: Its points.
        color: Number of a color, from 0.
        is_dashed: Whether the line is dashed, to tell two lines of a run apart.
    """

    label: str
    curve: Curve
    color: int
    is_dashed: bool = False


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    note: str = '',
    guide: float | None = None,
    from_zero: bool = False,
) -> str:
    """Return a figure: heading, chart, legend and table.

    Args:
        title: Heading.
        unit: What the vertical axis shows.
        lines: The lines; those without points are left out.
        note: A sentence below the heading.
        guide: A value that is marked by a horizontal line, such as a target.
        from_zero: Whether the vertical axis includes zero.
    """
    lines = [line for line in lines if line.curve.values]
    if not lines:
        return ''
    heading = f'<h3>{escaped(title)}</h3>' + (f'<p class="note">{escaped(note)}</p>' if note else '')
    drawing = _drawing(title, unit, lines, guide, from_zero)
    return f'<figure class="chart">{heading}{drawing}{_legend(lines)}{_table(unit, lines)}</figure>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within a range, at equal distances of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def as_text(value: float) -> str:
    """Format a number for an axis or a table."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f'{value:.2g}'
    digits = 0 if float(value).is_integer() else max(2 - math.floor(math.log10(abs(value))), 0)
    text = f'{value:,.{digits}f}'
    return text.rstrip('0').rstrip('.') if '.' in text else text


@dataclass(frozen=True)
class _Axes:
    """Maps values to positions in the drawing."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, kimg: float) -> float:
        return _LEFT + (kimg - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.bottom) / (self.top - self.bottom) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(lines: Sequence[Line], guide: float | None, from_zero: bool) -> _Axes:
    kimg = [position for line in lines for position in line.curve.kimg]
    values = [end for line in lines for ends in (line.curve.values, line.curve.low, line.curve.high) for end in ends]
    known = [value for value in [*values, guide] if value is not None]
    low, high = min(known), max(known)
    if from_zero:
        low, high = min(low, 0), max(high, 0)
    margin = max(0.06 * (high - low), _MIN_RANGE * max(abs(low), abs(high))) or 1
    bottom = low - margin if low < 0 else max(low - margin, 0)  # negative only if the data are
    return _Axes(min([0, *kimg]), max([1e-3, *kimg]), bottom, high + margin)


def _drawing(title: str, unit: str, lines: Sequence[Line], guide: float | None, from_zero: bool) -> str:
    axes = _axes(lines, guide, from_zero)
    parts = [_grid(axes, unit)]
    if guide is not None:
        y = axes.y(guide)
        parts.append(f'<line class="guide" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += [_interval_bars(axes, line) + _path(axes, line) for line in lines]
    summary = '; '.join(
        f'{line.label}: from {as_text(line.curve.values[0])} to {as_text(line.curve.last)}, '
        f'lowest {as_text(min(line.curve.values))}, highest {as_text(max(line.curve.values))}'
        for line in lines
    )
    label = escaped(f'{title} ({unit}) over thousands of images. {summary}.')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _grid(axes: _Axes, unit: str) -> str:
    parts = []
    for value in ticks(axes.bottom, axes.top):
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{as_text(value)}</text>')
    base = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    for value in ticks(axes.left, axes.right, 6):
        x = axes.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{as_text(value)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">images shown (thousands)</text>'
    )
    parts.append(f'<text class="label" x="4" y="13">{escaped(unit)}</text>')
    return ''.join(parts)


def _classes(line: Line) -> str:
    return f'c{line.color % NUM_COLORS}' + (' dashed' if line.is_dashed else '')


def _path(axes: _Axes, line: Line) -> str:
    curve = line.curve
    points = [(axes.x(kimg), axes.y(value), kimg, value) for kimg, value in zip(curve.kimg, curve.values)]
    steps = ' '.join(f'{x:.1f},{y:.1f}' for x, y, _kimg, _value in points)
    marks = []
    radius = 3 if len(points) <= 20 else 1.5
    for x, y, kimg, value in thinned(points, _MAX_MARKS):
        text = escaped(f'{line.label}: {as_text(value)} at {as_text(kimg)} kimg')
        marks.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
            f'<circle class="target" cx="{x:.1f}" cy="{y:.1f}" r="7"><title>{text}</title></circle>'
        )
    return f'<g class="{_classes(line)}"><polyline points="{steps}"/>{"".join(marks)}</g>'


def _interval_bars(axes: _Axes, line: Line) -> str:
    """Draw the intervals as vertical bars."""
    bars = [
        f'<line class="interval" x1="{axes.x(kimg):.1f}" x2="{axes.x(kimg):.1f}" '
        f'y1="{axes.y(low):.1f}" y2="{axes.y(high):.1f}"/>'
        for kimg, low, high in zip(line.curve.kimg, line.curve.low, line.curve.high)
        if low is not None and high is not None
    ]
    return f'<g class="{_classes(line)}">{"".join(bars)}</g>' if bars else ''


def _legend(lines: Sequence[Line]) -> str:
    items = [
        f'<li class="{_classes(line)}"><svg class="swatch" viewBox="0 0 24 8" aria-hidden="true">'
        f'<line x1="0" x2="24" y1="4" y2="4"/></svg>'
        f'<span>{escaped(line.label)} <b>{as_text(line.curve.last)}</b></span></li>'
        for line in lines
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(unit: str, lines: Sequence[Line]) -> str:
    """Return the numbers of the chart, those of a few points, folded up."""
    heads = ''.join(f'<th scope="col">{escaped(line.label)}</th>' for line in lines)
    by_kimg = [dict(zip(line.curve.kimg, line.curve.values)) for line in lines]
    rows = []
    for kimg in thinned(sorted(set().union(*by_kimg)), _MAX_ROWS):
        cells = ''.join(f'<td>{as_text(values[kimg]) if kimg in values else ""}</td>' for values in by_kimg)
        rows.append(f'<tr><th scope="row">{as_text(kimg)}</th>{cells}</tr>')
    return (
        f'<details><summary>Values ({escaped(unit)})</summary><div class="scroll" tabindex="0"><table><thead><tr>'
        f'<th scope="col">kimg</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></details>'
    )
