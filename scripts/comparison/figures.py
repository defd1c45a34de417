"""The outcome of a comparison for readers: a Markdown table, curves, and a grid of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.tables import markdown_table
from dnnlib.files import atomic_file
from generation.rendering import render_seeds
from network_files.reading import open_network
from scripts.comparison.methods import METHODS
from scripts.comparison.results import Comparison, Estimate, Run, estimates_of
from torch_utils.images import enlarge_with_margin, save_image_grid
from training.dataset import ImageFolderDataset

NUM_COLUMNS = 12  # images of each method in the grid
MIN_SIDE = 64  # pixels of the grid along one image
STATISTIC_TITLES = {'signs': 'mean sign of D for training images', 'p': 'augmentation strength p'}
HIGHER_IS_BETTER = ('pr', 'is', 'eq')  # beginnings of the names of values


# ---------------------------------------------------------------------------------------------------------------------
# Table


def table(comparison: Comparison) -> str:
    """Return a Markdown table with a line for each method, best first by the first value."""
    names = comparison.value_names()
    found = {name: estimates_of(comparison, name) for name in names}
    methods = comparison.methods()
    if names:
        sign = -1 if names[0].startswith(HIGHER_IS_BETTER) else 1
        methods.sort(key=lambda method: sign * found[names[0]][method].mean if method in found[names[0]] else np.inf)
    headings = ['method', 'seeds', *names, *([f'{names[0]} by seed'] if names else []), 's/kimg']
    rows = []
    for method in methods:
        runs = comparison.runs_of(method)
        seconds = [run.sec_per_kimg for run in runs if run.sec_per_kimg is not None]
        rows.append(
            [
                f'`{method}`',
                len(runs),
                *(_estimate(found[name].get(method)) for name in names),
                *([' / '.join(_number(run.last(names[0])) for run in runs)] if names else []),
                f'{np.mean(seconds):.1f}' if seconds else '',
            ]
        )
    return markdown_table(headings, rows)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ''
    if estimate.low is None or estimate.high is None:
        return _number(estimate.mean)
    return f'{_number(estimate.mean)} ({_number(estimate.low)} to {_number(estimate.high)})'


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.3g}' if abs(value) < 100 else f'{value:.0f}'


def page(comparison: Comparison) -> str:
    """Return the table as a Markdown page, with the settings of the comparison and the options of the methods."""
    settings = comparison.settings
    options = {run.method: ' '.join(run.options) for run in comparison.runs}
    own = [name for name in options if METHODS.get(name) != options[name]]
    subset = 'all images' if settings.subset is None else f'{settings.subset:,} images, others for each seed,'
    lines = [
        f'{subset} of `{settings.data}`, {settings.kimg:g} kimg, `{" ".join(settings.train_options)}`. Means over '
        'seeds at the end of the training, with 95 % intervals from the standard deviation of all methods together '
        '(distances: of their logarithms); s/kimg is the time of the training, whatever else the machine did.',
        '',
        table(comparison),
        '',
        '| method | options |',
        '| --- | --- |',
        *(f'| `{name}`{" (own)" if name in own else ""} | `{text}` |' for name, text in options.items()),
    ]
    return '\n'.join(lines) + '\n'


# ---------------------------------------------------------------------------------------------------------------------
# Curves


def draw_curves(comparison: Comparison, paths: Sequence[Path]) -> None:
    """Plot the curves of all methods over the training: their means, and each seed as a thin line.

    Args:
        comparison: The runs.
        paths: Files to write, whose extensions are the formats: .png, .svg.
    """
    import matplotlib

    matplotlib.rcParams['svg.hashsalt'] = 'comparison'  # so that equal curves give equal files
    import matplotlib.figure

    curves = [(name, 'results') for name in _along_the_way(comparison)]
    curves += [(name, 'statistics') for name in STATISTIC_TITLES]
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(curves), 4), layout='constrained')
    colors = matplotlib.colormaps['tab20']
    for axis, (name, kind) in zip(np.ravel(figure.subplots(1, len(curves))), curves):
        for index, method in enumerate(comparison.methods()):
            color = colors((2 * index + (index >= 10)) % 20)
            runs = comparison.runs_of(method)
            for run in runs:
                axis.plot(*_points([run], kind, name), color=color, linewidth=0.6, alpha=0.5)
            axis.plot(*_points(runs, kind, name), color=color, marker='.', label=method)
        axis.set(title=STATISTIC_TITLES.get(name, name), xlabel='thousand images shown')
        axis.grid(alpha=0.3)
        if kind == 'results' and not name.startswith(HIGHER_IS_BETTER):
            axis.set_yscale('log')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right center')
    for path in paths:
        with atomic_file(path) as file:
            metadata = {'Date': None} if path.suffix == '.svg' else None
            figure.savefig(file, format=path.suffix[1:], dpi=110, metadata=metadata)


def _along_the_way(comparison: Comparison) -> list[str]:
    """Return the values that were measured at more than one snapshot of a run."""
    return [
        name
        for name in comparison.value_names()
        if any(sum(value is not None for value in run.results.get(name, [])) > 1 for run in comparison.runs)
    ]


def _points(runs: Sequence[Run], kind: str, name: str) -> tuple[list[float], list[float]]:
    """Return the thousands of images, and the mean over the runs at those snapshots that all of them have."""
    found: dict[float, list[float]] = {}
    for run in runs:
        curve = getattr(run, kind).get(name, [])
        for kimg, value in zip(run.kimg, curve):
            if value is not None:
                found.setdefault(kimg, []).append(value)
    kimgs = sorted(kimg for kimg, values in found.items() if len(values) == len(runs))
    return kimgs, [float(np.mean(found[kimg])) for kimg in kimgs]


# ---------------------------------------------------------------------------------------------------------------------
# Grid


def draw_grid(networks: Mapping[str, Path], dataset: ImageFolderDataset, path: Path) -> None:
    """Write a grid as PNG: real images, and below them images of the same latents by the network of each method.

    Args:
        networks: Network pickle of each method.
        dataset: Real images.
        path: File to write.
    """
    steps = np.linspace(0, len(dataset) - 1, NUM_COLUMNS).astype(int)
    cells = [dataset[int(index)][0] for index in steps]
    for network in networks.values():
        G = open_network(str(network), keys=['G_ema'])['G_ema'].eval().requires_grad_(False)
        for seed in range(NUM_COLUMNS):
            label = torch.zeros([1, G.c_dim])
            label[:, seed % max(G.c_dim, 1) : seed % max(G.c_dim, 1) + 1] = 1
            cells += render_seeds(G, [seed], label)
    save_image_grid(
        enlarge_with_margin(np.stack(cells), MIN_SIDE),
        path,
        (NUM_COLUMNS, 1 + len(networks)),
        row_labels=['real', *networks],
    )
