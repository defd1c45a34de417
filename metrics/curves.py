"""Plots of metrics over the course of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from dnnlib.files import atomic_file

_SIZE_INCHES = (6, 4)
_DOTS_PER_INCH = 150


def require_matplotlib() -> None:
    """Raise ValueError if matplotlib cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        message = f'Plots require matplotlib, which cannot be imported ({error}): pip install matplotlib.'
        raise ValueError(message) from error


def save_curves(
    path: str | os.PathLike, title: str, kimg: Sequence[float], values: Mapping[str, Sequence[float]]
) -> None:
    """Plot curves over thousands of images, as a PNG file.

    Args:
        path: File to write.
        title: Title of the plot.
        kimg: Thousands of images that the training has seen at each point.
        values: For each curve, its name and the values at these points.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=_SIZE_INCHES, layout='constrained')
    axes = figure.subplots()
    for name, heights in values.items():
        axes.plot(kimg, heights, marker='.', label=name)
    axes.set(title=title, xlabel='training images (thousands)')
    axes.grid(alpha=0.3)
    if len(values) > 1:
        axes.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format='png', dpi=_DOTS_PER_INCH)
