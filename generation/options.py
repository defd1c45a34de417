"""Options and checks that the scripts for generating images share; the only module of this package that uses click."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch

from dataset_format.sizes import Resolution, sides
from dnnlib.cli import PATH, FiniteFloat, SeedRange, Size, resolve_device, usage_errors
from dnnlib.errors import InvalidArgument
from dnnlib.outputs import OutputFolder
from network_files.cli_types import NetworkFile
from network_files.reading import open_network

_MAX_PICTURE_PIXELS = 2**30  # 3 gigabytes


class Numbers(click.ParamType):
    """A list of finite numbers such as `0.2,1,0`."""

    name = 'NUMBERS'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            numbers = [float(text) for text in value.split(',')]
        except ValueError:
            self.fail(f'expected numbers separated by commas, such as 0.2,1,0, got {value!r}.', param, ctx)
        if not all(map(math.isfinite, numbers)):
            self.fail(f'{value!r} contains numbers that are not finite.', param, ctx)
        return numbers


# ---------------------------------------------------------------------------------------------------------------------
# Options


def network_option() -> Callable:
    """Return the decorator for `--network`."""
    return click.option(
        '--network',
        type=NetworkFile(),
        required=True,
        metavar='PKL|URL|DIR',
        help='Network pickle, or directory of a training run for its newest one',
    )


def seeds_option(help_text: str) -> Callable:
    """Return the decorator for `--seeds`."""
    return click.option('--seeds', type=SeedRange(), help=help_text)


def projected_w_option(help_text: str, multiple: bool = False) -> Callable:
    """Return the decorator for `--projected-w`, one path or several."""
    return click.option('--projected-w', type=PATH, multiple=multiple, metavar='NPZ', help=help_text)


def outdir_option() -> Callable:
    """Return the decorator for `--outdir`."""
    return click.option('--outdir', type=OutputFolder(), required=True, metavar='DIR', help='Output folder')


def grid_option(help_text: str, default: str | None = None) -> Callable:
    """Return the decorator for `--grid`, argument `grid_size`: (columns, rows)."""
    return click.option(
        '--grid',
        'grid_size',
        type=Size(example='8x4'),
        metavar='WxH',
        default=default,
        show_default=default is not None,
        help=help_text,
    )


def trunc_option() -> Callable:
    """Return the decorator for `--trunc`, argument `truncation_psi`."""
    return click.option(
        '--trunc',
        'truncation_psi',
        type=FiniteFloat(),
        default=1,
        show_default=True,
        metavar='PSI',
        help='Truncation: 1 keeps the full variety, values towards 0 give more typical images',
    )


def class_option(
    name: str = '--class',
    help_text: str = 'Class to generate, for conditional networks',
    metavar: str = 'NAME|INDEX|#INDEX',
) -> Callable:
    """Return the decorator for `--class` or a similar option, argument `class_text`."""
    argument = name.removeprefix('--').replace('-', '_') + '_text'
    return click.option(
        name, argument, metavar=metavar, help=f'{help_text} (write #3 for index 3 if names are numbers)'
    )


def label_option(
    name: str = '--label',
    help_text: str = 'Label to generate, for networks whose labels are not classes, e.g. 0.2,1,0',
    multiple: bool = False,
) -> Callable:
    """Return the decorator for `--label` or a similar option."""
    return click.option(name, type=Numbers(), metavar='N,N,…', help=help_text, multiple=multiple)


def noise_mode_option() -> Callable:
    """Return the decorator for `--noise-mode`."""
    return click.option(
        '--noise-mode',
        type=click.Choice(['const', 'random', 'none']),
        default='const',
        show_default=True,
        help='Fine detail: the noise stored in the network, new noise for each image, or no noise',
    )


def batch_option() -> Callable:
    """Return the decorator for `--batch`, argument `batch_size`."""
    return click.option(
        '--batch',
        'batch_size',
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help='Images computed at once; affects speed only',
    )


def trust_pickle_option() -> Callable:
    """Return the decorator for `--trust-pickle`."""
    return click.option(
        '--trust-pickle', is_flag=True, help='Run the code inside the pickle (only if you trust its author)'
    )


# ---------------------------------------------------------------------------------------------------------------------
# Network


def open_generator(network: str, trust_pickle: bool, device: str) -> tuple[dict[str, Any], Any, torch.device]:
    """Open the network that a script was called with.

    Args:
        network: Value of `--network`.
        trust_pickle: Value of `--trust-pickle`.
        device: Value of `--device`.

    Returns:
        (content of the network file, its G_ema on the device, the device)

    Raises:
        click.BadParameter: The device is not available, or the network cannot be opened.
    """
    torch_device = resolve_device(device)
    with usage_errors('--network'):
        data = open_network(network, trust=trust_pickle)
    return data, data['G_ema'].to(torch_device), torch_device


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_picture_size(grid_size: tuple[int, int], resolution: Resolution, argument: str = 'grid') -> None:
    """Raise InvalidArgument if a grid of (columns, rows) images would not fit into memory."""
    columns, rows = grid_size
    height, width = sides(resolution)
    if columns * rows * height * width > _MAX_PICTURE_PIXELS:
        raise InvalidArgument(
            argument,
            f'a grid of {columns}x{rows} images would have {columns * width}x{rows * height} pixels: '
            f'use fewer images, for {_MAX_PICTURE_PIXELS:,} pixels or less.',
        )


def warn_about_ignored(
    option: str, seeds: Sequence[int] | None, class_text: str | None, label: object, truncation_psi: float
) -> None:
    """Print which options have no effect because `option` provides the latents w."""
    given = {
        '--seeds': seeds is not None,
        '--class': class_text is not None,
        '--label': label is not None,
        '--trunc': truncation_psi != 1,
    }
    for name in [name for name, is_given in given.items() if is_given]:
        print(f'Warning: {name} is ignored, since {option} is given.', file=sys.stderr)


def warn_if_unconditional(c_dim: int, values: dict[str, object]) -> None:
    """Print which options have no effect because the network is not conditional.

    Args:
        c_dim: Size of the network's labels.
        values: Value of each option that selects a label, or None if it is not given.
    """
    for name, value in values.items():
        if c_dim == 0 and value is not None:
            text = f'{name}={value}' if isinstance(value, str) else name
            print(f'Warning: {text} is ignored, since the network is not conditional.', file=sys.stderr)
