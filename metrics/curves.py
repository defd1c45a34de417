"""Pictures of metrics over the course of a training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from dnnlib.files import atomic_file

_SIZE_INCHES = (6, 4)
_DOTS_PER_INCH = 150


def require_matplotlib() -> None:
    """ValueError with the way out where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'Curves need matplotlib, which cannot be imported ({error}): pip install matplotlib.'
        ) from error


def save_curves(
    path: str | os.PathLike, title: str, kimg: Sequence[float], values: Mapping[str, Sequence[float]]
) -> None:
    """Draw values by name over thousands of images shown, as a PNG file."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=_SIZE_INCHES, layout='constrained')
    axes = figure.subplots()
    for name, heights in values.items():
        axes.plot(kimg, heights, marker='.', label=name)
    axes.set(title=title, xlabel='thousands of images shown')
    axes.grid(alpha=0.3)
    if len(values) > 1:
        axes.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format='png', dpi=_DOTS_PER_INCH)
